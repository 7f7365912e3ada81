"""What is wrong with a tensor that a plan did not take, or the contiguous copy that it will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.convert.passes.program import Argument
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.stage import GraphIO, Value
from rtaccel.nn.check import dense, describe, is_plain, is_subclass
from rtaccel.runtime.memory import has_itself_twice, share_elements
from rtaccel.runtime.options import Options


def names_of(own: Sequence[str], arguments: Sequence[Argument]) -> list[str]:
    """Of the tensors that a model takes: as `forward` calls them (own), where each of its arguments is one."""
    return list(own) if len(own) == len(arguments) else [argument.name for argument in arguments]


def wanted(port: GraphIO, device: str) -> str:
    dims = ["*"] * (port.lead - len(port.middle)) + [str(d) for d in (*port.middle, *port.trailing)]
    return f"{port.value.dtype}[{', '.join(dims)}] on {device}"


def check_tensor(op: str, what: str, tensor: Any, port: GraphIO, device: str) -> None:
    """Raises ShapeError naming the first thing that is wrong: type, device, dtype, rank, or a fixed dimension."""
    expected = wanted(port, device)
    if not isinstance(tensor, Tensor):
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, "Pass a torch tensor.")
    if tensor.is_nested:
        advice = "Pad it, as torch.nested.to_padded_tensor does."
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, advice)
    if tensor.device != torch.device(device):
        raise ShapeError(
            op, f"{what}: {describe(tensor)}", expected, f"Move it with .to({device!r}), or compile for its device."
        )
    if is_subclass(tensor):
        got = f"{what}: {describe(tensor)}, a {type(tensor).__name__}"
        raise UnsupportedProblem(op, got, "a torch.Tensor itself", "Pass it on with .as_subclass(torch.Tensor).")
    if not is_plain(tensor):
        raise UnsupportedProblem(
            op,
            f"{what}: {describe(tensor)} of a torch transform or compiler",
            "a tensor with numbers in memory",
            "Call a compiled model outside of torch.compile, torch.export and torch.func; a swapped model goes through them.",
        )
    dtype = getattr(torch, port.value.dtype)
    if tensor.layout != torch.strided:
        raise ShapeError(op, f"{what}: {tensor.layout} {describe(tensor)}", expected, "Convert it with .to_dense().")
    if tensor.is_quantized:
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, "Convert it with .dequantize().")
    if tensor.dtype != dtype:
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, f"Convert it with .to({dtype}).")
    if tensor.dim() != port.lead + len(port.trailing):
        raise ShapeError(
            op,
            f"{what}: {tensor.dim()} dimensions, {describe(tensor)}",
            expected,
            "Keep the rank of the example input.",
        )
    fixed = (*port.middle, *port.trailing)
    if tuple(tensor.shape[tensor.dim() - len(fixed) :]) != fixed:
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, "All dimensions but the batch are the example's.")
    if tensor.numel() and not tensor.data_ptr():
        raise ShapeError(
            op, f"{what}: {describe(tensor)} without storage", expected, "Its memory was freed: fill it again."
        )


def fit_inputs(op: str, inputs: Sequence[Any], ports: Sequence[GraphIO], options: Options) -> tuple[Tensor, ...]:
    """The inputs as dense tensors that a plan takes: copied where strided, expanded or misaligned."""
    if len(inputs) != len(ports):
        raise ShapeError(op, f"{len(inputs)} inputs", f"{len(ports)}", "Call it as the model that was compiled.")
    for index, (tensor, port) in enumerate(zip(inputs, ports)):
        check_tensor(op, f"input {index}", tensor, port, options.place)
    leads = {tuple(t.shape[: p.lead]) for t, p in zip(inputs, ports)}
    if len(leads) > 1:
        raise ShapeError(
            op, f"batches {sorted(leads)}", "one batch shared by all inputs", "Match their first dimensions."
        )
    lead = leads.pop()
    if lead:
        options.check_batch(op, lead[0])
    return tuple(dense(t) for t in inputs)


def check_arguments(op: str, leaves: Sequence[Any], arguments: Sequence[Argument], options: Options) -> None:
    """Raises ShapeError for the first argument that is not what the model was exported for. Calls that fall back to PyTorch check
    nothing of the kind, and give another answer without a word."""
    if len(leaves) != len(arguments):
        raise ShapeError(op, f"{len(leaves)} inputs", f"{len(arguments)}", "Call it as the model that was compiled.")
    sizes = set()
    for index, (leaf, argument) in enumerate(zip(leaves, arguments)):
        what = f"input {index}"
        if argument.dtype is None:
            if type(leaf) is not type(argument.value) or leaf != argument.value:
                raise ShapeError(
                    op, f"{what}: {leaf!r}", f"{argument.value!r}, the value of the example: the model was exported with it",
                    "Compile it again for another value, or pass what changes as a tensor.",
                )  # fmt: skip
            continue
        open_first = bool(argument.shape) and argument.shape[0] is None
        shape = tuple(int(s or 0) for s in argument.shape[int(open_first) :])
        if isinstance(leaf, Tensor) and not open_first and leaf.dim() == len(shape) > 0 and leaf.shape[1:] == shape[1:]:
            options.check_batch(op, leaf.shape[0])  # says why the batch is fixed
        name = str(argument.dtype).removeprefix("torch.")
        check_tensor(op, what, leaf, GraphIO(Value(argument.name, 1, name), int(open_first), shape), options.place)
        if open_first:
            sizes.add(leaf.shape[0])
    if len(sizes) > 1:
        raise ShapeError(
            op, f"batches {sorted(sizes)}", "one batch shared by all inputs", "Match their first dimensions."
        )
    for size in sizes:
        options.check_batch(op, size)


def check_out(op: str, out: Any, ports: Sequence[GraphIO], lead: Sequence[int], device: str) -> tuple[Tensor, ...]:
    """`out` as a tuple of tensors of the right shapes; raises ShapeError before anything is written."""
    outs = (out,) if isinstance(out, Tensor) else tuple(out) if isinstance(out, (tuple, list)) else (out,)
    if len(outs) != len(ports):
        raise ShapeError(
            op, f"{len(outs)} tensors as out", f"{len(ports)}", "Pass one tensor for each output, in order."
        )
    for index, (tensor, port) in enumerate(zip(outs, ports)):
        check_tensor(op, f"out {index}", tensor, port, device)
        if tuple(tensor.shape[: port.lead]) != tuple(lead):
            raise ShapeError(op, f"out {index}: {list(tensor.shape)}", f"{[*lead, *port.trailing]}", "Match the batch.")
    check_apart(op, outs)
    return outs


def check_apart(op: str, outs: Sequence[Tensor]) -> None:
    """Raises ShapeError where two outs share an element, or one has an element twice: no order of writing would be right."""
    for index, tensor in enumerate(outs):
        if has_itself_twice(tensor):
            raise ShapeError(
                op, f"out {index}: {describe(tensor)} with strides {tensor.stride()}, an element of it twice in memory",
                "memory of its own for every element", "Pass a tensor that is not expanded.",
            )  # fmt: skip
        for earlier in range(index):
            if share_elements(tensor, outs[earlier]):
                raise ShapeError(
                    op, f"out {earlier} and out {index}, which share memory", "outs that lie apart", "Allocate buffers."
                )


def copy_out(results: Sequence[Any], out: Any) -> None:
    """Copies results into the tensors of `out`; raises ShapeError, with nothing written, where one does not fit."""
    targets = pytree.tree_leaves(out)
    if not all(isinstance(r, Tensor) for r in results):
        results, targets = _without_constants(results, targets)
    expected = [(tuple(r.shape), r.dtype, r.device) for r in results]
    got = [
        (tuple(t.shape), t.dtype, t.device) if isinstance(t, Tensor) and not t.is_nested else describe(t)
        for t in targets
    ]
    if got != expected:
        raise ShapeError("run", f"out {got}", f"{expected}", "Pass tensors that fit.")
    check_apart("run", targets)
    # A result may be the caller's own input, which an earlier target overwrites.
    places = {t.untyped_storage().data_ptr() for t in targets}
    results = [r.clone() if len(targets) > 1 and r.untyped_storage().data_ptr() in places else r for r in results]
    for target, result in zip(targets, results):
        target.detach().copy_(result)


def _without_constants(results: Sequence[Any], targets: Sequence[Any]) -> tuple[list[Tensor], list[Any]]:
    """What is no tensor among the results (None, a number) has nothing to be written: `out` may hold it or anything else."""
    if len(results) != len(targets):
        raise ShapeError("run", f"{len(targets)} values as out", f"{len(results)}", "Nest out as the model's result.")
    pairs = [(r, t) for r, t in zip(results, targets) if isinstance(r, Tensor)]
    return [r for r, _ in pairs], [t for _, t in pairs]


def nesting_error(op: str, inputs: tuple[Any, ...], wanted: Any) -> ShapeError:
    """For arguments that are nested otherwise than those of the example."""
    arguments, names = wanted.children()
    count = arguments.num_children
    if len(inputs) != count:
        return ShapeError(
            op, f"{len(inputs)} arguments", f"{count}, as the example has", "Call it as the model that was compiled."
        )
    got = ", ".join(_nested(pytree.tree_structure(value)) for value in inputs)
    expected = ", ".join(_nested(child) for child in arguments.children())
    if names.num_children:
        expected += " and arguments by name"
    return ShapeError(op, f"arguments ({got})", f"({expected})", "Nest them as those of the example.")


def _nested(spec: Any) -> str:
    """A tree of arguments in Python's own signs, with * for what is no container."""
    if spec.is_leaf():
        return "*"
    parts = [_nested(child) for child in spec.children()]
    if spec.type is dict:
        return "{" + ", ".join(f"{key!r}: {part}" for key, part in zip(spec.context, parts)) + "}"
    if spec.type is list:
        return f"[{', '.join(parts)}]"
    return f"{'' if spec.type is tuple else spec.type.__name__}({', '.join(parts)})"


def bind_run(run: Callable[..., Any], inputs: tuple[Any, ...], out: Any) -> Callable[[], None]:
    """`run` without arguments, for a model that has no native call to bind. Runs once, which checks the tensors."""
    run(*inputs, out=out)

    def call() -> None:
        run(*inputs, out=out)

    return call

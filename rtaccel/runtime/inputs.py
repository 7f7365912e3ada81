"""What is wrong with a tensor that a plan did not take, or the contiguous copy that it will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.stage import Port
from rtaccel.nn.check import dense, describe, is_plain
from rtaccel.runtime.options import Options


def wanted(port: Port, device: str) -> str:
    dims = ["*"] * port.lead + [str(d) for d in port.trailing]
    return f"{port.value.dtype}[{', '.join(dims)}] on {device}"


def check_tensor(op: str, what: str, tensor: Any, port: Port, device: str) -> None:
    """Raises ShapeError naming the first thing that is wrong: type, device, dtype, rank, or a fixed dimension."""
    expected = wanted(port, device)
    if not isinstance(tensor, Tensor):
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, "Pass a torch tensor.")
    if tensor.device.type != device:
        raise ShapeError(
            op, f"{what}: {describe(tensor)}", expected, f"Move it with .to({device!r}), or compile for its device."
        )
    if not is_plain(tensor):
        raise UnsupportedProblem(
            op,
            f"{what}: {describe(tensor)} of a torch transform or compiler",
            "a tensor with numbers in memory",
            "Call a compiled model outside of torch.compile, torch.export and torch.func; a swapped model goes through them.",
        )
    dtype = getattr(torch, port.value.dtype)
    if tensor.dtype != dtype or tensor.layout != torch.strided:
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, f"Convert it with .to({dtype}).")
    if tensor.dim() != port.lead + len(port.trailing):
        raise ShapeError(
            op,
            f"{what}: {tensor.dim()} dimensions, {describe(tensor)}",
            expected,
            "Keep the rank of the example input.",
        )
    if tuple(tensor.shape[port.lead :]) != port.trailing:
        raise ShapeError(op, f"{what}: {describe(tensor)}", expected, "The last dimensions are the model's own widths.")
    if tensor.numel() and not tensor.data_ptr():
        raise ShapeError(
            op, f"{what}: {describe(tensor)} without storage", expected, "Its memory was freed: fill it again."
        )


def fit_inputs(op: str, inputs: Sequence[Any], ports: Sequence[Port], options: Options) -> tuple[Tensor, ...]:
    """The inputs as dense tensors that a plan takes: copied where strided, expanded or misaligned."""
    if len(inputs) != len(ports):
        raise ShapeError(op, f"{len(inputs)} inputs", f"{len(ports)}", "Call it as the model that was compiled.")
    for index, (tensor, port) in enumerate(zip(inputs, ports)):
        check_tensor(op, f"input {index}", tensor, port, options.device)
    leads = {tuple(t.shape[: p.lead]) for t, p in zip(inputs, ports)}
    if len(leads) > 1:
        raise ShapeError(
            op, f"batches {sorted(leads)}", "one batch shared by all inputs", "Match their first dimensions."
        )
    rows = torch.Size(leads.pop()).numel()
    options.check_rows(op, rows)
    return tuple(dense(t) for t in inputs)


def check_out(op: str, out: Any, ports: Sequence[Port], lead: Sequence[int], device: str) -> tuple[Tensor, ...]:
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
    return outs


def copy_out(results: Sequence[Tensor], out: Any) -> None:
    """Copies results into the tensors of `out`; raises ShapeError, with nothing written, where one does not fit."""
    targets = pytree.tree_leaves(out)
    expected = [(tuple(r.shape), r.dtype, r.device) for r in results]
    got = [(tuple(t.shape), t.dtype, t.device) if isinstance(t, Tensor) else type(t) for t in targets]
    if got != expected:
        raise ShapeError("run", f"out {got}", f"{expected}", "Pass tensors that fit.")
    for target, result in zip(targets, results):
        target.copy_(result)


def bind_run(run: Callable[..., Any], inputs: tuple[Any, ...], out: Any) -> Callable[[], None]:
    """`run` without arguments, for a model that has no native call to bind. Runs once, which checks the tensors."""
    run(*inputs, out=out)

    def call() -> None:
        run(*inputs, out=out)

    return call

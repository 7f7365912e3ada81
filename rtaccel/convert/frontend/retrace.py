"""A model as a graph without torch.export: it runs once on the example, and the calls it makes are written down.

Its Python may then do what export forbids: read numbers of tensors that depend on no input, assert on them, go through NumPy,
hide attributes of its base class. Where numbers of an input decide what is computed, the graph holds one decision for ever: it is
refused, unless the caller asks for it, or takes it with a flag that says whether the numbers are those of the example
(`guards/numbers.py`). Shapes are those of the example.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import config as fx_config
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.exported.containers import check_values, results_known
from rtaccel.convert.frontend.exported.written_calls import WrittenCalls
from rtaccel.convert.frontend.guards.depends import OF_SHAPES, of_inputs, of_placeholders
from rtaccel.convert.frontend.guards.numbers import READS, Guard, counts_of, with_flag
from rtaccel.convert.frontend.guards.settled_sizes import is_sized, keep_settled_sizes, sizes_of
from rtaccel.convert.frontend.private_copy import attributes_kept
from rtaccel.convert.frontend.torchscript.program import line_in
from rtaccel.convert.frontend.tracing.called_modules import modules_noted
from rtaccel.convert.frontend.tracing.unasked import unvalidated
from rtaccel.core.errors import UnsupportedProblem

NO_LINES = "do_not_emit_stack_traces"
_LEAVES_TORCH = {Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__dlpack__}
"""Methods that hand numbers to something else than torch, which no trace sees."""


class _Watch(TorchFunctionMode):
    """Makes such methods visible: the trace then holds a number that was read from the tensor. places: where."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEAVES_TORCH and isinstance(args[0], Tensor) and args[0].numel():
            read = args[0].detach()
            aten.equal.default(read, read)  # all of its numbers are read
            self.places.append(_place())
        elif func in (Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__):
            self.places.append(_place())
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """The innermost line of Python that is not torch's or ours."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "/rtaccel/" not in file and not file.startswith("<"):
            return f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        if line_in(frame):
            return line_in(frame)
        frame = frame.f_back
    return "an unknown line"


class Muted:
    """A stream of text that takes nothing of the thread that made it, and all of the others."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread or self._stream is None else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unlogged() -> Iterator[None]:
    """Without what torch logs and prints of a call that does not fit: it raises as well, and another form may fit. And without
    the lines of code that it notes at each call, which nothing here reads: under a deep stack they take a fifth of the time."""
    noted = getattr(fx_config, NO_LINES, None)  # of older versions of torch: None
    if noted is not None:
        setattr(fx_config, NO_LINES, True)
    logs = [
        logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "torch.fx.experimental", "torch.export")
    ]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        out, err = Muted(sys.stdout), Muted(sys.stderr)
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
        if noted is not None:
            setattr(fx_config, NO_LINES, noted)


@contextmanager
def transforms_left() -> Iterator[None]:
    """Leaves the transforms of torch.func that an error inside a graph did not leave: under them torch.rand raises."""
    depth = torch._C._functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _exporting() -> Iterator[None]:
    """Code that asks whether torch.export traces it takes the way that it has for that: libraries leave out checks of inputs
    there, which only warn."""
    flags = [name for name in ("_is_compiling_flag", "_is_exporting_flag") if hasattr(torch.compiler, name)]
    before = [getattr(torch.compiler, name) for name in flags]
    for name in flags:
        setattr(torch.compiler, name, True)
    try:
        yield
    finally:
        for name, value in zip(flags, before):
            setattr(torch.compiler, name, value)


@dataclass(frozen=True)
class Retraced:
    """module: takes the tensors among the flattened arguments, and gives the flattened results. taken: which arguments these are.
    in_spec, out_spec: how arguments and results are nested."""

    module: fx.GraphModule
    tensors: tuple[Tensor, ...]
    leaves: tuple[Any, ...]
    taken: tuple[int, ...]
    in_spec: Any
    out_spec: Any
    guarded: bool = False


def retrace(
    model: nn.Module,
    args: Sequence[Any],
    specialize: bool,
    guard: Guard = Guard.NONE,
    steady: bool = False,
    as_called: bool = False,
) -> Retraced:
    """A model as the calls that it made on the example.

    specialize: numbers of the inputs may be read, and stay what they are in the example. guard: which of them may be read where
    a flag says at each call whether they are those of the example. steady: refuses others than those that noise does not change.
    as_called: without the ways that its Python has for torch.export.
    Raises UnsupportedProblem naming the line where others are read; and what the model raises.
    """
    if as_called:
        return _retraced(model, args, specialize, guard, steady)
    try:
        with _exporting():
            found = _retraced(model, args, specialize, guard, steady)
        if not any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in found.module.graph.nodes):
            return found
        return _retraced(model, args, specialize, guard, steady)  # whose loops are Python's
    except Exception:  # what the model has for torch.export does not run here, or reads more than its usual code
        return _retraced(model, args, specialize, guard, steady)


def _retraced(model: nn.Module, args: Sequence[Any], specialize: bool, guard: Guard, steady: bool) -> Retraced:
    leaves, in_spec = pytree.tree_flatten((tuple(args), {}))
    check_values("compile", leaves)
    taken = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    out_spec: Any = None

    def call(*tensors: Tensor) -> list[Any]:
        nonlocal out_spec
        given = list(leaves)
        for i, tensor in zip(taken, tensors):
            given[i] = tensor
        own_args, own_kwargs = pytree.tree_unflatten(given, in_spec)
        flat, out_spec = pytree.tree_flatten(model(*own_args, **own_kwargs))
        return flat

    tensors = tuple(leaves[i].detach().clone() for i in taken)
    watch = _Watch()

    written = WrittenCalls(reads=specialize or guard is not Guard.NONE)

    def traced(pre_dispatch: bool) -> fx.GraphModule:
        with (
            _quiet(), unvalidated(), attributes_kept(model), transforms_left(), modules_noted(model), watch, written,
            results_known(model),
        ):  # fmt: skip
            return make_fx(
                call, tracing_mode="real", pre_dispatch=pre_dispatch, _error_on_data_dependent_ops=False
            )(*tensors)  # fmt: skip

    # What stands above the dispatcher does not see into gradients and vmap, and fails for one inside the other.
    try:
        module = traced(pre_dispatch=True)
        inside = differentiates(module.graph) or vectorizes(module.graph)
    except Exception:
        inside = True
    if inside:
        module = traced(pre_dispatch=False)
    keep_settled_sizes(module)
    depends = of_placeholders(module.graph)
    reads = [] if specialize else [n for n in depends if n.target in READS and not _of_shapes(n)]
    counts = [] if specialize else counts_of(module.graph, set(depends))
    guarded = with_flag(module, reads, counts, tensors, guard, steady)
    if reads and not guarded:
        where = f" ({', '.join(dict.fromkeys(watch.places))})" if watch.places else ""
        raise UnsupportedProblem(
            "compile", f"{type(model).__name__}, whose Python reads numbers of its inputs{where}",
            "a model whose calls do not depend on the numbers in its inputs",
            "Pass specialize=True where they are always those of the example, or compute with tensors there.",
        )  # fmt: skip
    _forget_settled(module)
    _forget_numbers(module)
    return Retraced(module, tensors, tuple(leaves), taken, in_spec, out_spec, guarded)


def differentiates(graph: fx.Graph) -> bool:
    """Whether the model computes gradients in its forward: what export writes down of them is constants."""
    for node in graph.nodes:
        if node.target is torch._C._set_grad_enabled and node.args[0] is True:
            return True
        if isinstance(node.target, torch._ops.OpOverload) and node.target.name().split(".")[0].endswith("_backward"):
            return True
    return False


def vectorizes(graph: fx.Graph) -> bool:
    """Whether the model calls torch.vmap: its calls are those of one sample, between two that say where samples begin and end."""
    return any(getattr(node.target, "__module__", "") == "torch._functorch.predispatch" for node in graph.nodes)


def reads_constants(program: torch.export.ExportedProgram) -> bool:
    """Whether a graph of torch.export asks at each call for numbers that never change, which a retrace has as numbers."""
    wanted = set(program.graph_signature.user_inputs)
    return any(
        node.target in READS and not of_inputs(node, wanted) and bool(node.users) for node in program.graph.nodes
    )


def sized_by_constants(program: torch.export.ExportedProgram) -> bool:
    """Whether a graph of torch.export has calls whose results are as large as numbers say that never change."""
    wanted = set(program.graph_signature.user_inputs)
    sized = [node for node in program.graph.nodes if is_sized(node)]
    return any(not of_inputs(which, wanted, OF_SHAPES) for node in sized for which in sizes_of(node))


def with_arguments(graph: fx.Graph, inputs: Sequence[str], found: Retraced) -> tuple[str, ...]:
    """Names of the placeholders of a graph for all flattened arguments: those that are no tensors get one that nothing reads."""
    names = dict(zip(found.taken, inputs))
    first = next(iter(graph.nodes))
    for i, leaf in enumerate(found.leaves):
        if i not in names:
            with graph.inserting_before(first):
                node = graph.placeholder(f"argument_{i}")
            node.meta["val"] = leaf
            names[i] = node.name
    return tuple(names[i] for i in range(len(found.leaves)))


def _of_shapes(read: fx.Node) -> bool:
    """Tensors of different shapes are not equal, whatever numbers they hold."""
    shapes = {tuple(n.meta["val"].shape) for n in read.all_input_nodes if isinstance(n.meta.get("val"), Tensor)}
    return read.target is aten.equal.default and len(shapes) > 1


def _forget_numbers(module: fx.GraphModule) -> None:
    """Without the calls that read numbers: what they gave is in the graph already. And without those that raise for a matrix
    that has no inverse: the operator itself does."""
    for node in reversed(list(module.graph.nodes)):
        if (node.target in READS or node.target is aten._linalg_check_errors.default) and not node.users:
            module.graph.erase_node(node)
    module.recompile()


def _forget_settled(module: fx.GraphModule) -> None:
    """Without calls that write into a parameter what it holds already, as a bound on weights does after the first call."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload) or not node.args:
            continue
        into, first = node.args[0], node.target._schema.arguments[0]
        if first.alias_info is None or not first.alias_info.is_write or not isinstance(into, fx.Node):
            continue
        sources = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
        values = {a: _held(module, a) for a in sources}
        if any(v is None for v in values.values()):
            continue
        held = values[into]
        assert held is not None
        given = {a: v.clone() for a, v in values.items() if v is not None}
        with torch.no_grad():
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), given.__getitem__)
            node.target(*args, **kwargs)
        if torch.allclose(given[into], held, rtol=1e-6, atol=0, equal_nan=True):
            node.replace_all_uses_with(into)
            module.graph.erase_node(node)


def _held(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The tensor that a node reads from the module."""
    value = getattr(module, str(node.target), None) if node.op == "get_attr" else None
    return value.detach() if isinstance(value, Tensor) else None

"""The functional form of an exported program by edits of its graph, without a second trace.

Tracing is nearly all of what compiling takes, and torch's own step traces the program once more. Most programs need few changes:
`relu_` on a value that nobody else holds, a `reshape` that is a view. Whether two values share memory is known from the trace
that was made: fake tensors that alias have one storage. A write that others see is written_views.py's. What needs more than that
goes through torch's step.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompose import insert_parts, traced, writes_in_place
from rtaccel.convert.frontend.functional.calls import MAYBE_ITSELF, RESHAPED, made, replace
from rtaccel.convert.frontend.functional.out_of_place import out_of_place
from rtaccel.convert.frontend.functional.written_views import Memory
from rtaccel.convert.frontend.graph.open_shapes import open_shapes

_DROPOUT = {
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default,
}  # fmt: skip
_LIKE = {
    aten._assert_tensor_metadata.default, aten.detach_.default, aten.lift_fresh_copy.default, aten.batch_norm.default,
}  # fmt: skip
"""Calls that have another one as their functional form."""

_ASKED = {aten.sym_size.int, aten.sym_stride.int}
_OF_SIZES = {operator.mul, operator.add, operator.sub, operator.floordiv, operator.mod, operator.getitem, operator.neg}


def edit(program: torch.export.ExportedProgram) -> bool:
    """Makes the graph functional and gives True. False, with a program of the same meaning, where torch's step is needed."""
    from torch._export import utils

    if not all(hasattr(utils, name) for name in ("_is_cia_op", "_is_preservable_cia_op")):
        return False  # another version of torch
    graph = program.graph
    memory = Memory(_without_dropout(program))
    if any(spec.kind.name != "USER_OUTPUT" for spec in program.graph_signature.output_specs):
        return False
    if not all(_known(node) for node in graph.nodes) or not out_of_place(graph, memory):
        return False
    sizes: dict[str, fx.Node] = {}
    try:
        for node in list(graph.nodes):
            if isinstance(node.meta.get("val"), torch.SymInt):
                sizes.setdefault(str(node.meta["val"].node.expr), node)
            if node.op != "call_function":
                continue
            if node.target in _LIKE and _like(node):
                continue
            if _taken_apart(node.target) and not _apart(node, sizes):
                return False
    finally:
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))  # nothing left writes or asserts
        _rename_outputs(program)
    return True


def _without_dropout(program: torch.export.ExportedProgram) -> list[tuple[Any, Any]]:
    """In eval mode the result is the input itself, which a later call in place changes too; torch's step would take a copy. Gives
    pairs of values that are one."""
    same = []
    for node in list(program.graph.nodes):
        if node.target in _DROPOUT and node.args[2] is False:
            same.append((node.meta.get("val"), node.args[0].meta.get("val")))
            replace(node, node.args[0])
    _rename_outputs(program)
    return same


def _known(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        if node.target in _LIKE:
            return True
        name = node.target.name()
        return "_assert" not in name and "sym_constrain" not in name and "val" in node.meta
    return node.target in _OF_SIZES


def _taken_apart(target: Any) -> bool:
    """Whether torch's step would not keep the call: a composite one whose result may share its input's memory."""
    from torch._export import utils

    if not isinstance(target, torch._ops.OpOverload):
        return False
    return utils._is_cia_op(target) and not utils._is_preservable_cia_op(target) and target not in _ASKED


def _like(node: fx.Node) -> bool:
    """The functional form of one of `_LIKE`; False where these arguments have none."""
    args = node.args
    if node.target is aten._assert_tensor_metadata.default:  # of dtypes, which no plan changes
        node.graph.erase_node(node)
        return True
    if node.target is aten.detach_.default:  # nothing here has a gradient
        return replace(node, args[0])  # type: ignore[arg-type]
    with node.graph.inserting_before(node):
        if node.target is aten.lift_fresh_copy.default:
            return replace(node, made(node, aten.clone.default, args, {}))
        if len(args) < 8 or args[5] is not False or node.kwargs:
            return False
        norm = made(node, aten._native_batch_norm_legit_no_training.default, (*args[:5], *args[6:8]), {})
        norm.meta["val"] = (node.meta["val"], *(torch.empty(0) for _ in range(2)))
        return replace(node, made(node, operator.getitem, (norm, 0), {}))


def _apart(node: fx.Node, sizes: dict[str, fx.Node]) -> bool:
    value = node.meta["val"]
    x = node.args[0] if node.args else None
    if isinstance(value, Tensor) and isinstance(x, fx.Node) and isinstance(x.meta.get("val"), Tensor):
        same = _same_storage(value, x.meta["val"])
        if same and node.target in MAYBE_ITSELF and _same_layout(value, x.meta["val"]):
            return replace(node, x)
        if node.target in RESHAPED:
            if same and _same_layout(value, x.meta["val"]):
                return replace(node, x)
            shape = _shape(node, x, sizes)
            if shape is not None:
                return replace(node, _viewed(node, x, shape, same))
        if node.target is aten.contiguous.default and not same:
            with node.graph.inserting_before(node):
                kwargs = {"memory_format": node.kwargs.get("memory_format", torch.contiguous_format)}
                return replace(node, made(node, aten.clone.default, (x,), kwargs))
    return _traced(node)


def _viewed(node: fx.Node, x: fx.Node, shape: list[Any], same: bool) -> fx.Node:
    with node.graph.inserting_before(node):
        if same:
            return made(node, aten.view.default, (x, shape), {})
        copy = made(node, aten.clone.default, (x,), {"memory_format": torch.contiguous_format})
        with open_shapes([x.meta["val"]]):
            copy.meta["val"] = aten.clone.default(x.meta["val"], memory_format=torch.contiguous_format)
        return made(node, aten._unsafe_view.default, (copy, shape), {})


def _shape(node: fx.Node, x: fx.Node, sizes: dict[str, fx.Node]) -> list[Any] | None:
    """The sizes of the result, open ones as the nodes that give them; None where one is not found."""
    shape: list[Any] = []
    for size in node.meta["val"].shape:
        if isinstance(size, int):
            shape.append(size)
            continue
        found = _size_node(node, x, str(size.node.expr), size, sizes)
        if found is None:
            return None
        shape.append(found)
    return shape


def _size_node(node: fx.Node, x: fx.Node, expr: str, size: Any, sizes: dict[str, fx.Node]) -> fx.Node | None:
    found = sizes.get(expr)
    if found is not None:
        return found
    for source in [n for n in node.graph.nodes if n.op == "placeholder"] + [x]:
        value = source.meta.get("val")
        for d, given in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if not isinstance(given, int) and str(given.node.expr) == expr:
                place = node.graph.inserting_before(_first_call(node.graph)) if source.op == "placeholder" else (
                    node.graph.inserting_before(node)
                )  # fmt: skip
                with place:
                    made = node.graph.call_function(aten.sym_size.int, (source, d))
                made.meta["val"] = given
                sizes[expr] = made
                return made
    return None


def _first_call(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op != "placeholder")


def _traced(node: fx.Node) -> bool:
    """By torch's kernels for composite calls, on the values of the trace."""
    sources = list(dict.fromkeys(node.all_input_nodes))
    values = [s.meta.get("val") for s in sources]
    if any(not isinstance(v, (Tensor, torch.SymInt)) for v in values):
        return False

    try:
        with open_shapes([s.meta["val"] for s in sources]):
            made = traced(node.target, node, sources)  # type: ignore[arg-type]
    except Exception:  # a call that does not trace alone
        return False
    results = None if writes_in_place(made.graph) else insert_parts(made.graph, node, node, sources)
    if results is None:
        return False
    if isinstance(node.meta["val"], Tensor):
        return replace(node, results[0])
    for user in list(node.users):
        if user.target is not operator.getitem:
            return False
        replace(user, results[user.args[1]])  # type: ignore[index]
    node.graph.erase_node(node)
    return True


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _same_layout(a: Tensor, b: Tensor) -> bool:
    def words(t: Tensor) -> tuple[Any, ...]:
        return (t.dtype, *(str(n) for n in (*t.shape, *t.stride(), t.storage_offset())), t.dim())

    return words(a) == words(b)


def _rename_outputs(program: torch.export.ExportedProgram) -> None:
    """The names in the signature are those of the nodes that are given back."""
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    for spec, node in zip(program.graph_signature.output_specs, output.args[0]):
        if isinstance(node, fx.Node) and hasattr(spec.arg, "name"):
            spec.arg.name = node.name

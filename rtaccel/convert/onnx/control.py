"""If, Loop and Scan: one branch where the condition is known, else modules that decide when they run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.values import BROKEN, Broken, Computed, Known

if TYPE_CHECKING:
    from rtaccel.convert.onnx.builder import Builder


def truth(condition: Any) -> bool:
    """A tensor's value is read: while a model is exported that is only possible for what the sizes say."""
    return bool(condition) if isinstance(condition, Tensor) else bool(n.one(condition))


class Branches(nn.Module):
    """An If. The condition, then the values that the branches read."""

    def __init__(self, branches: Sequence[nn.Module], reads: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.then_branch, self.else_branch = branches
        self.reads = [list(r) for r in reads]

    def forward(self, condition: Any, *values: Any) -> Any:
        taken = truth(condition)
        branch, reads = (self.then_branch, self.reads[0]) if taken else (self.else_branch, self.reads[1])
        return branch(*(values[i] for i in reads))


def _branch_of(build: Builder, graph: Any) -> Builder:
    inner = type(build)(build.onnx, build.opsets, build)
    inner.read(graph)
    return inner


def build_if(build: Builder, node: Any) -> Sequence[Any]:
    condition = build.look_up(node.input[0])
    graphs = {a.name: a.g for a in node.attribute}
    if isinstance(condition, Known):
        return _inlined(build, graphs["then_branch" if bool(condition.tensor.reshape(-1)[0]) else "else_branch"])
    branches = [_branch_of(build, graphs[name]) for name in ("then_branch", "else_branch")]
    build.node = node
    if isinstance(condition, Broken):
        return [BROKEN] * len(node.output)
    refs = [
        [b.look_up(entry.name) for entry in g.output]
        for b, g in zip(branches, (graphs["then_branch"], graphs["else_branch"]))
    ]
    if any(isinstance(r, Broken) for row in refs for r in row):
        return [BROKEN] * len(node.output)
    as_numbers = [all(_may_be_numbers(row[i]) for row in refs) for i in range(len(node.output))]
    modules = []
    for b, row in zip(branches, refs):
        results = tuple(_result(b, ref, whole) for ref, whole in zip(row, as_numbers))
        modules.append(b.module("Branch", results))
    captured = list(dict.fromkeys(name for b in branches for name in b.captured))
    reads = [[captured.index(name) for name in b.captured] for b in branches]
    for b, module in zip(branches, modules):
        _check_placeholders(module, len(b.captured))
    values = tuple(build.look_up(name).node for name in captured)
    made = _module_call(build, node, Branches(modules, reads), (condition.node, *values))
    dtypes = [
        next((b.dtype_of(r) for r, b in ((row[i], b) for row, b in zip(refs, branches))), torch.int64)
        for i in range(len(as_numbers))
    ]
    return _picked(build, made, as_numbers, dtypes)


def _check_placeholders(module: nn.Module, count: int) -> None:
    found = sum(node.op == "placeholder" for node in module.graph.nodes)  # type: ignore[union-attr]
    assert found == count, (found, count)


def _may_be_numbers(ref: Any) -> bool:
    if isinstance(ref, Known):
        return not ref.tensor.is_floating_point() and ref.tensor.numel() <= 64
    return isinstance(ref, Computed) and ref.numbers


def _result(build: Builder, ref: Any, numbers: bool) -> Any:
    if numbers:
        return _literal(build, ref) if isinstance(ref, Known) else ref.node
    return build._argument(ref)


def _literal(build: Builder, ref: Known) -> Any:
    return build.graph.call_function(n.array, (ref.tensor.tolist() if ref.tensor.dim() else ref.tensor.item(),))


def _module_call(build: Builder, node: Any, module: nn.Module, args: tuple[Any, ...]) -> Any:
    name = build.names.node(node.name or node.output[0])
    while hasattr(build.root, name):
        name += "_"
    build.root.add_module(name, module)
    return build.graph.call_module(name, args)


def _picked(build: Builder, made: Any, as_numbers: Sequence[bool], dtypes: Sequence[torch.dtype]) -> Sequence[Computed]:
    return [
        Computed(build.graph.call_function(operator.getitem, (made, i)), whole, dtype)
        for i, (whole, dtype) in enumerate(zip(as_numbers, dtypes))
    ]


def _inlined(build: Builder, graph: Any) -> Sequence[Any]:
    """The nodes of the branch, in the graph itself. Names inside are not seen outside."""
    kept, node = dict(build.env), build.node
    build.read(graph)
    results = [build.look_up(entry.name) for entry in graph.output]
    build.env, build.node = kept, node
    return results


class Unrolled(nn.Module):
    """A Loop whose rounds follow from the file and the shapes: the count, the condition, the carried values, then what the body
    reads from outside. The body gives the condition of the next round first."""

    def __init__(self, body: nn.Module, carried: int) -> None:
        super().__init__()
        self.body, self.carried = body, carried

    def forward(self, count: Any, condition: Any, *values: Any) -> Any:
        carried, outer = list(values[: self.carried]), values[self.carried :]
        collected: list[list[Any]] = []
        rounds, goes_on = int(n.one(count)), bool(n.one(condition))
        while goes_on and len(collected) < rounds:
            made = self.body(n.array(len(collected)), *carried, *outer)
            goes_on = bool(n.one(made[0]))
            carried = list(made[1 : self.carried + 1])
            collected.append(list(made[self.carried + 1 :]))
        return (*carried, *(torch.stack(parts) for parts in zip(*collected)))


def build_loop(build: Builder, node: Any) -> Sequence[Any]:
    count, condition, *initial = [build.look_up(name) for name in node.input]
    body = next(a.g for a in node.attribute if a.name == "body")
    if any(isinstance(ref, Broken) for ref in (count, condition, *initial)):
        return [BROKEN] * len(node.output)
    if isinstance(count, Computed) and not count.numbers:
        build.refuse(
            "has a number of rounds that is computed from values; what follows from the file and the shapes is taken"
        )
    if isinstance(condition, Computed) and not condition.numbers:
        build.refuse("has a condition that is computed from values; what follows from the file and the shapes is taken")
    kinds = [_may_be_numbers(ref) for ref in initial]
    problems = len(build.problems)
    while True:
        inner, refs = _body(build, body, initial, kinds)
        build.node = node
        stay = [whole and not isinstance(ref, Broken) and _may_be_numbers(ref) for whole, ref in zip(kinds, refs[1:])]
        if stay == kinds:
            break
        kinds = stay  # a counter that becomes a tensor inside is one from the beginning
        del build.problems[problems:]
    if any(isinstance(ref, Broken) for ref in refs):
        return [BROKEN] * len(node.output)
    if not _may_be_numbers(refs[0]):
        build.refuse("ends by a condition that is computed from values")
    whole = [True, *kinds, *(False for _ in refs[len(kinds) + 1 :])]
    module = inner.module("Body", tuple(_result(inner, ref, w) for ref, w in zip(refs, whole)))
    outer = tuple(build.look_up(name).node for name in inner.captured)
    carried = tuple(_result(build, ref, w) for ref, w in zip(initial, kinds))
    first = [_result(build, ref if ref is not None else Known(torch.tensor(default), ""), True)
             for ref, default in ((count, 2**62), (condition, True))]  # fmt: skip
    made = _module_call(build, node, Unrolled(module, len(initial)), (*first, *carried, *outer))
    dtypes = [build.dtype_of(ref) if w else torch.int64 for ref, w in zip(initial, kinds)]
    more = len(node.output) - len(kinds)
    return _picked(build, made, [*kinds, *[False] * more], [*dtypes, *[torch.int64] * more])


def _body(build: Builder, graph: Any, initial: Sequence[Any], kinds: Sequence[bool]) -> tuple[Builder, list[Any]]:
    """The graph of a Loop, with those of its carried values as numbers that `kinds` says."""
    inner = type(build)(build.onnx, build.opsets, build)
    names = [entry.name for entry in graph.input]
    inner.env[names[0]] = Computed(inner.graph.placeholder(inner.names.node(names[0])), True)
    inner.env[names[1]] = Known(torch.tensor(True), names[1])
    for name, ref, whole in zip(names[2:], initial, kinds):
        dtype = build.dtype_of(ref) if whole else torch.int64
        inner.env[name] = Computed(inner.graph.placeholder(inner.names.node(name)), whole, dtype)
    inner.read(graph)
    return inner, [inner.look_up(entry.name) for entry in graph.output]


class Scanned(nn.Module):
    """A Scan: the states, then the sequences, then what the body reads from outside."""

    def __init__(
        self,
        body: nn.Module,
        states: int,
        axes: Sequence[int],
        back: Sequence[int],
        out_axes: Sequence[int],
        out_back: Sequence[int],
    ) -> None:
        super().__init__()
        self.body, self.states = body, states
        self.axes, self.back, self.out_axes, self.out_back = list(axes), list(back), list(out_axes), list(out_back)

    def forward(self, *values: Any) -> Any:
        states, rows = list(values[: self.states]), values[self.states : self.states + len(self.axes)]
        outer = values[self.states + len(self.axes) :]
        steps = rows[0].shape[self.axes[0]]
        collected: list[list[Any]] = []
        for t in range(steps):
            now = [x.select(a, steps - 1 - t if b else t) for x, a, b in zip(rows, self.axes, self.back)]
            made = self.body(*states, *now, *outer)
            states = list(made[: self.states])
            collected.append(list(made[self.states :]))
        outs = [list(parts) for parts in zip(*collected)]
        outs = [part[::-1] if back else part for part, back in zip(outs, self.out_back)]
        return (*states, *(torch.stack(part, axis) for part, axis in zip(outs, self.out_axes)))


def build_scan(build: Builder, node: Any) -> Sequence[Any]:
    attrs = {a.name: build.onnx.helper.get_attribute_value(a) for a in node.attribute}
    if build.opsets.get("", 1) < 9:
        build.refuse("is the Scan of opset 8, over samples and with lengths")
    body, count = attrs["body"], attrs["num_scan_inputs"]
    given = [build.look_up(name) for name in node.input]
    states = len(given) - count
    inner = type(build)(build.onnx, build.opsets, build)
    for entry in body.input:
        inner.env[entry.name] = Computed(inner.graph.placeholder(inner.names.node(entry.name)))
    inner.read(body)
    build.node = node
    refs = [inner.look_up(entry.name) for entry in body.output]
    if any(isinstance(ref, Broken) for ref in (*refs, *given)):
        return [BROKEN] * len(node.output)
    module = inner.module("Body", tuple(inner._argument(ref) for ref in refs))
    outs = len(refs) - states
    scanned = Scanned(
        module, states, attrs.get("scan_input_axes", [0] * count), attrs.get("scan_input_directions", [0] * count),
        attrs.get("scan_output_axes", [0] * outs), attrs.get("scan_output_directions", [0] * outs),
    )  # fmt: skip
    outer = tuple(build.look_up(name).node for name in inner.captured)
    made = _module_call(build, node, scanned, (*(build._argument(ref) for ref in given), *outer))
    return _picked(build, made, [False] * len(node.output), [torch.int64] * len(node.output))


BUILDS: dict[str, Callable[..., Sequence[Any]]] = {"If": build_if, "Loop": build_loop, "Scan": build_scan}
"""Operators with graphs inside."""

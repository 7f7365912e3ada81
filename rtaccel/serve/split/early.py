"""Early exits of a cut: the edge in parts with a test behind each, and whose answer a row gets."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from rtaccel import _native as native
from rtaccel.convert.passes.program import SubgraphStep
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.plan.group import Subgraph
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.exits import TESTS, Exit, exits_of
from rtaccel.serve.split.halves import Crossing, part, whole_group
from rtaccel.serve.split.probes import least_us

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Exits:
    """Tests of a model whose outputs are answers of growing quality. tests: of each output but the last. names: of the outputs.
    made: for each test, how many stages are behind it when it can be asked; those before it can be asked by then too."""

    tests: tuple[Exit, ...]
    names: tuple[str, ...]
    made: tuple[int, ...]

    def at_edge(self, at: int) -> list[int]:
        """Numbers of the tests that can be asked before a cut."""
        return [i for i, stages in enumerate(self.made) if stages <= at]

    def stops(self, at: int) -> list[int]:
        """Where the parts of an edge end: behind the stages of each test that it can ask, and at the cut."""
        return sorted({self.made[i] for i in self.at_edge(at)} | {at})

    def between(self, begin: int, end: int) -> list[int]:
        """Numbers of the tests that can be asked behind `end` and not behind `begin`."""
        return [i for i, stages in enumerate(self.made) if begin < stages <= end]

    def passed(self, index: int, answer: Tensor) -> Rows:
        """bool [rows] of an answer float32 [rows, ...]: whose test passes. The code of `Exit`, without what it checks."""
        test = self.tests[index]
        if callable(test.test) or not answer.is_contiguous():
            return test.passes(test.scores(answer)).numpy()
        rows = len(answer)
        scores = torch.empty(rows, dtype=torch.float32)
        place = answer.data_ptr(), answer.numel() // rows, rows, scores.data_ptr()
        native.exit_scores(TESTS[test.test], test.index, *place)
        limit = np.float32(test.threshold)
        return scores.numpy() <= limit if test.above is None else scores.numpy() >= limit

    def answer(
        self, outputs: Sequence[Tensor | None], passed: dict[int, Rows] | None = None, bad: Rows | None = None
    ) -> tuple[Tensor, NDArray[np.int32]]:
        """(the answer of each row, the number of the output that it is, int32 [rows]).

        outputs: of the model, float32 [rows, ...]; None: not computed, as every row had left. passed: of tests that were asked.
        bad: bool [rows], whose int8 values stand for no number: they are NaN and never leave.
        """
        known = passed or {}
        last = max(i for i, y in enumerate(outputs) if y is not None)
        found: Any = outputs[last]
        left = np.full(len(found), last, np.int32)
        many = len(found) > 1 or bad is not None
        found = found.clone() if many else found
        for i in reversed(range(min(last + 1, len(self.tests)))):
            y: Any = outputs[i]
            rows = known[i] if i in known else self.passed(i, y)
            if bad is not None:
                rows = rows & ~bad
            left[rows] = i
            if many:
                found[torch.from_numpy(rows)] = y[torch.from_numpy(rows)]
            elif rows[0]:
                found = y
        if bad is not None:
            found[torch.from_numpy(bad)] = math.nan
        return found, left

    def of(self, call: Callable[..., Any]) -> Callable[..., Tensor]:
        """A model that gives answers, as one that gives the answer of each row."""
        return lambda *inputs: self.answer(pytree.tree_leaves(call(*inputs)))[0]


def exits_for(fast: CompiledModel, given: Any, test: Any) -> tuple[CompiledModel, Exits]:
    """The tests of a model, and the model with its stages in an order in which answers are there as early as may be. Raises
    FormatError and ShapeError for tests and outputs that do not fit."""
    group, program = whole_group("split", fast), fast._program
    tests = tuple(exits_of("split", given, len(program.outputs), test))
    ports = {port.value.name: port for port in group.outputs}
    answers = [ports[name] for name in program.outputs]
    shapes = [(a.lead, a.trailing, a.value.dtype) for a in answers]
    if len(set(shapes)) != 1 or answers[0].value.dtype != "float32":
        got = ", ".join(f"{a.value.dtype}{list(a.trailing)}" for a in answers)
        raise ShapeError("split", f"outputs {got}", "answers in float32 of one shape", "Return (early, ..., last).")
    for index, one in enumerate(tests):
        one.check_answer("split", index, answers[index].trailing)
    stages = _ordered(group, program.outputs)
    if stages != group.stages:
        step = program.steps[0]
        assert isinstance(step, SubgraphStep)
        ordered = replace(step, group=Subgraph(stages, group.inputs, group.outputs))
        fast = CompiledModel(replace(program, steps=(ordered,), source=None), fast._options, fast._argument_names)
    place = {v.name: i + 1 for i, stage in enumerate(stages) for v in stage.outputs}
    made = [place.get(name, 0) for name in program.outputs[:-1]]
    return fast, Exits(tests, tuple(program.outputs), tuple(max(made[: i + 1]) for i in range(len(made))))


def _ordered(group: Subgraph, outputs: Sequence[str]) -> tuple[Any, ...]:
    """Stages that the first output needs, then those that the second needs too, and so on; else in the order that they had."""
    maker = {v.name: i for i, stage in enumerate(group.stages) for v in stage.outputs}
    order: list[int] = []
    for name in (*outputs, *maker):
        needed, open_ = set[int](), [maker[name]] if name in maker else []
        while open_:
            i = open_.pop()
            if i not in needed and i not in order:
                needed.add(i)
                open_ += [maker[v.name] for v in group.stages[i].inputs if v.name in maker]
        order += sorted(needed)
    return tuple(group.stages[i] for i in order)


@dataclass
class EarlyRun:
    """What the edge has come to. made: what it gives, None where it was not computed. passed: of each test that was asked, which
    rows. bad: rows whose values in int8 stand for no number. sure: whether every row has left. done: whether nothing has to be
    sent."""

    made: tuple[Tensor | None, ...]
    passed: dict[int, Rows] = field(default_factory=dict)
    bad: Rows | None = None
    sure: bool = False
    done: bool = False


class EarlyEdge:
    """The edge of a cut in parts: behind each the tests that can be asked by then. It ends at the first where every row has left.

    `edge(*inputs)` computes all parts, and gives what an edge in one plan gives; `edge.run(inputs)` ends early. `parts` are
    compiled models. Raises ShapeError for inputs that do not fit.
    """

    def __init__(
        self, fast: CompiledModel, exits: Exits, at: int, cuts: Sequence[Crossing], names: Sequence[str]
    ) -> None:
        self._exits, self._names, self._last = exits, tuple(names), at == len(cuts) - 1
        self._inputs = [port.value.name for port in whole_group("split", fast).inputs]
        stops = exits.stops(at)
        self._steps = [
            (begin, *part(fast, cuts, begin, end, f"edge from {begin}"), exits.between(begin, end))
            for begin, end in itertools.pairwise((0, *stops))
        ]
        inner = [port for stop in stops[:-1] for port in cuts[stop].ports]
        self._hides = any(port.value.dtype == "int8" for port in inner)

    def with_steps(self, steps: list[Any]) -> EarlyEdge:
        """The same with other models."""
        found = copy.copy(self)
        found._steps = steps
        return found

    @property
    def parts(self) -> tuple[CompiledModel, ...]:
        return tuple(model for _, _, _, model, _ in self._steps if model is not None)

    def run(self, inputs: Sequence[Any], whole: bool = False) -> EarlyRun:
        """inputs: arguments of the model, float32 or int64 [rows, ...]. whole: compute all parts, whatever the tests say."""
        known: dict[str, Any] = dict(zip(self._inputs, pytree.tree_leaves(tuple(inputs))))
        bad = bad_rows(inputs) if self._hides else None
        passed: dict[int, Rows] = {}
        sure: Rows | None = None
        for begin, reads, gives, model, tests in self._steps:
            if model is not None:
                known.update(zip(gives, model(*([known[name] for name in reads] if begin else inputs))))
            for i in tests:
                passed[i] = self._exits.passed(i, known[self._exits.names[i]])
                good = passed[i] if bad is None else passed[i] & ~bad
                sure = good if sure is None else sure | good
            if tests and not whole and sure is not None and bool(sure.all()):
                return EarlyRun(tuple(known.get(name) for name in self._names), passed, bad, True, True)
        all_left = sure is not None and bool(sure.all())
        return EarlyRun(tuple(known[name] for name in self._names), passed, bad, all_left, self._last)

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        return self.run(inputs, whole=True).made  # type: ignore[return-value]


def part_us(edge: EarlyEdge, args: tuple[Any, ...], asking_us: Sequence[float]) -> float:
    """Microseconds of Python that each part of an edge takes beside its call and its tests: of a run whose models give what they
    gave before."""
    given: list[tuple[Tensor, ...]] = []

    def recorded(model: Any) -> Any:
        def call(*inputs: Any) -> Any:
            given.append(model(*inputs))
            return given[-1]

        return call

    def replayed(outputs: tuple[Tensor, ...]) -> Any:
        return lambda *inputs: outputs

    steps = [step for step in edge._steps if step[3] is not None]
    edge.with_steps([(b, r, g, recorded(m), t) for b, r, g, m, t in steps]).run(args, whole=True)
    bare = edge.with_steps([(b, r, g, replayed(y), t) for (b, r, g, _, t), y in zip(steps, given)])
    return max(0.0, least_us(lambda: bare.run(args, whole=True)) - sum(asking_us)) / max(1, len(steps))


def bad_rows(inputs: Sequence[Any]) -> Rows | None:
    """bool [rows]: whose inputs are not finite; None: all are."""
    bad: Any = None
    for t in pytree.tree_leaves(tuple(inputs)):
        if isinstance(t, Tensor) and t.is_floating_point() and t.dim() and t.numel():
            rows = ~torch.isfinite(t).flatten(1).all(1) if t.dim() > 1 else ~torch.isfinite(t)
            bad = rows if bad is None else bad | rows
    return bad.numpy() if bad is not None and bool(bad.any()) else None


def calls_of(batches: Sequence[tuple[Any, ...]], rows: int) -> list[tuple[Any, ...]]:
    """Calibration data as calls of so many rows; what is left at the end of a batch is left out. Raises FormatError for none."""
    found = []
    for batch in batches:
        leaves, spec = pytree.tree_flatten(tuple(batch))
        for start in range(0, leaves[0].shape[0] - rows + 1, rows):
            found.append(pytree.tree_unflatten([t[start : start + rows] for t in leaves], spec))
    if not found:
        raise FormatError(
            "split", "exit= without calibration data", f"calibration=, batches of {rows} rows or more like those to come",
            "The share of rows that leave early is measured on them.",
        )  # fmt: skip
    return found


def exits_of_calls(call: Callable[..., Any], exits: Exits, calls: Sequence[tuple[Any, ...]]) -> list[int]:
    """For each call the test behind which its last row leaves; the number of tests where a row is left for the last output."""
    return [int(exits.answer(pytree.tree_leaves(call(*one)))[1].max()) for one in calls]


def asking_us(fast: CompiledModel, exits: Exits, args: tuple[Any, ...]) -> list[float]:
    """Microseconds of asking each test of the answers to one call, from Python."""
    answers = pytree.tree_leaves(fast(*args))

    def ask(i: int) -> bool:
        return bool(exits.passed(i, answers[i]).all())

    return [least_us(lambda i=i: ask(i)) for i in range(len(exits.tests))]  # type: ignore[misc]

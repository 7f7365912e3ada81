"""What passes ask of an operator about rows: which of them it needs for those that are wanted, and how it runs step by step.

A value has rows: time steps of a window, or positions of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.traits import Node

if TYPE_CHECKING:
    from torch import Tensor

    from rtaccel.core.stage import Stage, Value


class Narrowing(Protocol):
    """Values that lose the rows nobody reads. Rows are numbered as they were before."""

    def rows_of(self, name: str) -> list[int]:
        """Those that a value has left."""

    def is_narrowed(self, name: str) -> bool:
        """Whether it lost any."""

    def width(self, name: str) -> int:
        """Of its rows."""

    def fitted(self, node: Node, name: str, rows: list[int]) -> str:
        """The value with just these rows: itself, or a copy that is gathered before the node."""

    def keep_all(self, name: str) -> None:
        """Its rows are all computed after all."""


@dataclass(frozen=True)
class RowsNeeded:
    """needed: (node, index of an input, rows that it has, rows wanted of the result) -> rows of that input; None for all of them.
    narrow: changes a node for the rows that are left; True where all that it does then is to hand on its input.
    beside: whether the result may lose rows although the node gives other values, of which it keeps all.
    """

    needed: Callable[[Node, int, int, Collection[int]], Iterable[int] | None]
    narrow: Callable[[Node, Narrowing], bool]
    beside: bool = False


def _same_rows(node: Node, index: int, steps: int, wanted: Collection[int]) -> Iterable[int]:
    return wanted


def _narrow_all(node: Node, values: Narrowing) -> bool:
    wanted = values.rows_of(node.writes[0])
    node.reads = [values.fitted(node, name, wanted) for name in node.reads]
    return False


ROW_BY_ROW = RowsNeeded(_same_rows, _narrow_all)
"""Of an operator whose result has a row for each row of its inputs."""


@dataclass(frozen=True)
class TimeSpan:
    """Which time steps the rows of a value are of.

    shift: row r is of the step r + shift. steps: its rows; 0 for a value without rows over time. receptive_field:
    further steps that a row depends on backwards, -1 for all. outer, inner: the value is dense [outer, steps, inner], as the
    heads of attention are; inner 0 where a row of the value is a time step, [steps, width]. lead: elements of zeros that the
    value begins with, before its first step. rest: elements behind its last one, of a step that is not whole.
    """

    shift: int
    steps: int
    receptive_field: int
    outer: int = 1
    inner: int = 0
    lead: int = 0
    rest: int = 0

    def is_by_rows(self, width: int) -> bool:
        """Whether a row of the value, of that width, is a time step."""
        return not self.steps or not self.inner or (self.outer == 1 and self.inner == width)


def longest(spans: Iterable[TimeSpan]) -> int:
    """`receptive_field` of a value that is made of several."""
    receptive_field = [span.receptive_field for span in spans]
    return -1 if -1 in receptive_field else max(receptive_field)


def later(span: TimeSpan, steps: int) -> int:
    """`receptive_field` of a value that waits for so many steps."""
    return -1 if span.receptive_field < 0 else span.receptive_field + steps


class StreamWalk(Protocol):
    """The graph of a window while it becomes one of a single step. length: steps of the window."""

    length: int

    def newest(self, span: TimeSpan) -> int:
        """The row of the newest step."""

    def width(self, name: str) -> int:
        """Of the rows of a value."""

    def elements(self, name: str) -> int:
        """Of a value of the window, all time steps."""

    def fit_rows(self, name: str, inner: int) -> bool:
        """Whether each row of a value lies within a time step of `inner` elements. Rows that hold several steps are cut where
        all who read the value walk it by places, so that its rows mean nothing to them."""

    def is_input(self, name: str) -> bool:
        """Whether it is the model's own input."""

    def add_state(self, name: str, rows: int, width: int, dtype: str = "float32") -> str:
        """Declares a value that is kept from step to step, and gives its name."""

    def add_table(self, node: Node, table: Tensor) -> str:
        """A value that is the table's row of the step, for a node that reads it. The table has a row for each step of the
        window."""

    def recent(self, node: Node, name: str, inner: int, count: int) -> str:
        """For a node: the newest `count` elements of a value that has `inner` of them a step, oldest first, in rows of its width.
        Those before the first step are zeros."""

    def is_early(self, name: str) -> bool:
        """Whether a value, not seen through padding, has rows that are known before the first step."""

    def delayed(self, node: Node, name: str, steps: int) -> str:
        """For a node: what a value was so many steps ago; zeros before the first step."""

    def since(self, node: Node, name: str, shift: int) -> str:
        """For a node: a value with zeros in its place until so many steps are over: what comes before its first row."""

    def zero_until(self, node: Node, state: str, shift: int) -> str:
        """For a node: what it writes in place of a state that is zero until so many steps are over."""

    def beginning(self, node: Node, state: str, first: str, shift: int) -> str:
        """For a node: a state, with the constant value `first` in its place until a step that is not before `shift` is over."""

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same in each step, whatever the input."""

    def newest_state(self, name: str, state: str) -> None:
        """A final value of the window is what a state is after the step: what reads it reads that."""

    def inserted(
        self, node: Node, op: str, attrs: dict[str, Any], reads: Sequence[str], made: str, elements: int
    ) -> str:
        """Puts a further node of a time step before a node; gives the name of its float32 result, `made`."""

    def running(self, node: Node, kind: str, name: str, elements: int) -> str:
        """For a node: the join ("sum", "prod", "max" or "min") of each of the elements that a value has in a step with those of
        all steps before; a sum is in float64."""

    def steps_so_far(self, node: Node, shift: int) -> str:
        """For a node: how many steps there were, the first `shift` of them not counted; [1]."""

    def filled_until(self, node: Node, name: str, count: int, shift: int, fill: float) -> str:
        """For a node: the `count` elements that a value has in a step, with a number in their place until so many steps are
        over."""

    def newest_rows(self, node: Node, name: str, count: int, rows: int, shift: int, fill: float) -> str:
        """For a node: the `count` elements that a value has in a step, in so many steps, oldest first, with a number in the place
        of steps before step `shift`."""

    def needs_context(self, what: str) -> None:
        """Of a node that holds as many steps as the window has: raises `not_streamable` where the user did not say how many."""


@dataclass(frozen=True)
class SameRows:
    """The result is the node's input, seen over another span: nothing is computed."""

    span: TimeSpan


@dataclass(frozen=True)
class Streaming:
    """step: makes the node, a copy that it may change, one of a single time step, and gives the span of its result. Raises
        `not_streamable` where it cannot.
    keeps_input: its state holds past rows of the first input, in int8 where that is int8. any_layout: whether it takes values
        whose rows are not time steps. edges: whether it takes values with a lead or a rest. by_element: whether rows mean nothing
        to it where it has no tensors: it meets its inputs element by element. by_tick: of a stage whose state, its second input
        and output, is a ring in which a row follows from the number of the call, the stage that is told it: (stage, int64 [1]).
    """

    step: Callable[[Node, Sequence[TimeSpan], StreamWalk], TimeSpan | SameRows]
    keeps_input: bool = False
    any_layout: bool = False
    edges: bool = False
    by_element: bool = False
    by_tick: Callable[[Stage, Value], Stage] | None = None


def not_streamable(what: str) -> UnsupportedProblem:
    return UnsupportedProblem("stream", what, "a model that can go step by step", "See docs/how-to/stream.md.")


def at_the_latest(node: Node, shifts: Sequence[int], walk: StreamWalk) -> int:
    """Makes a node read its inputs of the same row: those that are known earlier wait for the latest. Gives its shift. What is
    computed of zeros before the first step cannot wait: no step computes it."""
    latest = max(shifts)
    if any(shift < latest and walk.is_early(name) for name, shift in zip(node.reads, shifts)):
        raise not_streamable(f"{node.name}, which brings different time steps together")
    node.reads = [
        walk.delayed(node, name, latest - shift) if shift < latest else name for name, shift in zip(node.reads, shifts)
    ]
    return latest


def _row_step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    if len({(span.steps, span.lead, span.rest) for span in spans}) == 1 and spans[0].steps:
        latest, waited = at_the_latest(node, [span.shift for span in spans], walk), [span.shift for span in spans]
        spans = [replace(s, shift=latest, receptive_field=later(s, latest - shift)) for s, shift in zip(spans, waited)]
    if len({(span.shift if span.steps else None, span.steps) for span in spans}) != 1:
        raise not_streamable(f"{node.name}, which brings different time steps together")
    first, past, width = spans[0], longest(spans), walk.width(node.writes[0])
    if all(span.is_by_rows(walk.width(name)) for span, name in zip(spans, node.reads)):
        return TimeSpan(first.shift, first.steps, past)
    inside = {(span.outer, divmod(span.inner, walk.width(name) or 1)) for span, name in zip(spans, node.reads)}
    (outer, (rows, rest)), *others = inside
    if others or rest or not width:
        raise not_streamable(f"{node.name}, whose operands lie differently in time")
    return TimeSpan(first.shift, first.steps, past, outer, rows * width)


STREAMS_ROWS = Streaming(_row_step, any_layout=True)
"""Of an operator that treats every time step alike."""


def _element_step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    """Rows that hold several time steps, such as a column of a window, are cut where they mean nothing."""
    for name, span in zip(node.reads, spans):
        if span.steps and span.inner:
            walk.fit_rows(name, span.inner)
    return _row_step(node, spans, walk)


STREAMS_ELEMENTS = Streaming(_element_step, any_layout=True, by_element=True)
"""Of one that treats every element alike."""

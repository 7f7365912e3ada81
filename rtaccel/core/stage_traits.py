"""What the plan asks of an operator: how its stages carry int8, leave zeros out, and are joined on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtaccel.core.stage import Stage, Value
from rtaccel.core.traits import StateObserver

if TYPE_CHECKING:
    from torch import Tensor


def any_is_static(stage: Stage) -> bool:
    """For `Int8Flow.marks`: one of its outputs is int8 with a static scale."""
    return any(value.quant is not None for value in stage.outputs)


def static_inside(stage: Stage) -> bool:
    """For `Int8Flow.marks`: it quantizes its input itself with a static scale, or its first output; a ring is no result."""
    return "x_scale" in stage.attrs or stage.outputs[0].quant is not None


def never(stage: Stage) -> bool:
    """For what an `Int8Flow` says of stages."""
    return False


@dataclass(frozen=True)
class Int8Flow:
    """How int8 goes in and out.

    reads_rows: its second input may be the scale of each row of an int8 first one; a stage before it quantizes. An operator
        without it quantizes a float32 input itself where the scale is not static.
    writes: its kernels can write the first output as int8 with a static scale, whatever its weights are.
    beside: they give the first output as float32, as int8 or as both; attrs["gives"] names them ("y", "q", "row_scale", and
        "sum" for a second output).
    marks: whether float32 inputs of a stage, if it has any, become int8 with a static scale: int8 cannot hold a NaN, so the
        plan marks the sample.
    hands_on: whether all of a row of the first output is NaN where that row of the first input, float32 as well, holds a NaN or
        an infinity: the plan then need not mark it.
    hands_on_sample: the same of all of a sample: one NaN or infinity in the first input, and all of the first output is NaN.
    give_mark: of a stage that rounds its float32 first input to static int8: the same with a mark of each sample, float32 [1], as
        a last output: 1, or NaN where that input holds a NaN or an infinity. None where it cannot.
    take_mark: the stage with such a mark as a last input, by which all of its float32 first output becomes NaN, or stays to the
        bit. None where it cannot.
    keeps_nan: whether a sample of nothing but NaN in the first input is one in the first output, float32 both.
    rounds_last: whether an int8 first output has the bits of the float32 one, rounded in a stage behind.
    state_observer: (name of the layer, whether its states come with every call) -> what finds the range of an int8 state.
    """

    reads_rows: bool = False
    writes: bool = False
    beside: bool = False
    marks: Callable[[Stage], bool] = any_is_static
    hands_on: Callable[[Stage], bool] = never
    hands_on_sample: Callable[[Stage], bool] = never
    give_mark: Callable[[Stage, Value], Stage | None] = lambda stage, mark: None
    take_mark: Callable[[Stage, Value], Stage | None] = lambda stage, mark: None
    keeps_nan: bool = False
    rounds_last: Callable[[Stage], bool] = never
    state_observer: Callable[[str, bool], StateObserver] | None = None


class Sparse:
    """What an operator says of weights that hold zeros. Subclasses give what applies.

    by_layout: its own kernels leave zeros out where attrs["layout"] is "sparse".
    is_matrix: it multiplies rows by one matrix, and rtaccel.kernels.sparse_linear has kernels for the zeros of that.
    """

    by_layout = False
    is_matrix = False

    def matrices(self, tensors: Mapping[str, Tensor], attrs: Mapping[str, object]) -> Sequence[str]:
        """Names of the weights that sparse kernels take; they may be pruned."""
        return ()

    def as_matrix(self, stage: Stage) -> Stage | None:
        """A stage of an operator that `is_matrix` and means the same, to the bit in int8: the stage itself, or another. None
        where there is none."""
        return stage if self.is_matrix else None


class Planes:
    """What an operator over images says of planes: its values with all positions of a channel side by side ([C, H, W]) instead of
    a row of channels for each position. Subclasses give what applies; each method gives None where it does not.

    together: both its values are planes, or neither.
    alike: these have the same rows.
    """

    together = False
    alike = False

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        """(channels, height, width) of its first input, where that may be planes; what `over` made of its result counts."""
        return None

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        """(channels, height, width) of its result, where that may be planes."""
        return None

    def beside(self, stage: Stage) -> tuple[int, ...]:
        """Which further inputs are planes where its result is, as the result has them."""
        return ()

    def flat(self, stage: Stage) -> bool:
        """Whether planes have to be one row."""
        return False

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        """The stage with planes as its first input, as its result, or both; None leaves a value as it is."""
        inputs = stage.inputs if x is None else (x, *stage.inputs[1:])
        return replace(stage, inputs=inputs, outputs=stage.outputs if y is None else (y,))

    def by_elements(self, stage: Stage) -> bool:
        """Whether it takes its inputs by elements, whatever rows they have."""
        return False

    def rows_together(self, stage: Stage) -> Sequence[Sequence[Value]]:
        """Its values where these may have other rows: those of each group together. () where rows are what it works on."""
        return ()


class ByElements(Planes):
    """Of an operator that reads elements by strides or indices; a copy of whole rows does not."""

    def by_elements(self, stage: Stage) -> bool:
        return "rows" not in stage.attrs

    def rows_together(self, stage: Stage) -> Sequence[Sequence[Value]]:
        return [(v,) for v in (*stage.inputs, *stage.outputs)] if self.by_elements(stage) else ()


class EachElement(Planes):
    """Of an operator that makes each element of its result from the same elements of its inputs: as planes, all are. Numbers of
    each channel become numbers of each element; broadcasts: a single one stays.

    MAX_CHANNELS: up to which that is worth while. MAX_ELEMENTS: of which each has such numbers.
    """

    together = True
    alike = True
    MAX_CHANNELS = 8
    MAX_ELEMENTS = 1 << 16

    def __init__(self, broadcasts: bool = False) -> None:
        self._broadcasts = broadcasts

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        (x, *others), y = stage.inputs, stage.outputs[0]
        alike = len(stage.outputs) == 1 and x.width * x.steps == y.width * y.steps
        alike &= all(v.shape == x.shape for v in others)
        alike &= not stage.tensors or x.width * x.steps <= self.MAX_ELEMENTS
        return (x.width, x.steps, 1) if alike and x.width <= self.MAX_CHANNELS and x.steps > 1 else None

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        return self.read(stage)

    def beside(self, stage: Stage) -> tuple[int, ...]:
        return tuple(range(1, len(stage.inputs)))

    def flat(self, stage: Stage) -> bool:
        return bool(stage.tensors)

    def rows_together(self, stage: Stage) -> Sequence[Sequence[Value]]:
        values = (*stage.inputs, *stage.outputs)
        alike = all(v.shape == values[0].shape for v in values)
        return [values] if alike and all(t.numel() == 1 for t in stage.tensors.values()) else ()

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        if y is not None:
            tensors = {
                name: t if self._broadcasts and t.numel() == 1 else t.repeat_interleave(y.width // t.numel())
                for name, t in stage.tensors.items()
            }
            stage = replace(stage, tensors=tensors)
        return super().over(stage, x, y)


class Fusion:
    """Neighbors that a stage takes into its own launch on a GPU. Each method gives None where it does not."""

    def rows(self, stage: Stage, source: Stage) -> Stage | None:
        """The stage with the rows that `source` quantizes for it, a scale each, quantized inside."""
        return None

    def static(self, stage: Stage, source: Stage, rows: int) -> Stage | None:
        """The stage with the input that `source` quantizes by a static scale quantized inside, for batches of about `rows`."""
        return None

    def takes_residual(self, stage: Stage) -> bool:
        """Whether `with_residual` can be asked."""
        return False

    def with_residual(self, stage: Stage, other: Value, outputs: tuple[Value, ...]) -> Stage:
        """The stage with `other` added to its result."""
        raise NotImplementedError

    def links(self, layers: Sequence[Stage], stage: Stage) -> bool:
        """Whether the stage can follow these layers in a chain that is one stage."""
        return False

    def chain(self, source: Stage, layers: Sequence[Stage]) -> Stage | None:
        """The one stage for a static quantization and the layers that follow it."""
        return None


@dataclass(frozen=True)
class Square:
    """What a stage makes of each element of x: its square, or that of x - about. place: (dims, offset and strides) of `about`
    over the elements of the result, in their order."""

    x: Value
    about: Value | None = None
    place: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


class Squares:
    """What an operator says of squares. Subclasses give what applies.

    made: what a stage makes, where that are squares. joined: a stage that joins the elements of what another makes, and computes
    their squares itself; None where it does not."""

    def made(self, stage: Stage) -> Square | None:
        return None

    def joined(self, stage: Stage, square: Square) -> Stage | None:
        return None


@dataclass(frozen=True)
class Differences:
    """What a stage makes: the square or the magnitude of a difference of two operands, each a value or a parameter.

    of: "squares" or "magnitudes". dims: in the order of the result. places: of each operand, an offset and strides over a dense
    one. weights: a number that each is multiplied by, of a constant with a place of its own,
    which one number has not; None for 1."""

    of: str
    dims: tuple[int, ...]
    operands: tuple[Value | Tensor, Value | Tensor]
    places: tuple[tuple[int, ...], tuple[int, ...]]
    weights: Tensor | None = None
    weights_place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Joins:
    """What a stage joins of its one input: over all of dims but the first ones that are kept. place: offset and strides."""

    kind: str
    dims: tuple[int, ...]
    kept: int
    place: tuple[int, ...]


class Pairs:
    """What an operator says of pairs of rows. Subclasses give what applies.

    differences: what a stage makes, where that are differences. joins: what it joins, where that is all it does. joined: of the
    operator with Role.PAIRS, a stage that does both; None where it does not."""

    def differences(self, stage: Stage) -> Differences | None:
        return None

    def joins(self, stage: Stage) -> Joins | None:
        return None

    def joined(self, name: str, y: Value, differences: Differences, joins: Joins) -> Stage | None:
        return None


class Formula:
    """What an operator says of formulas. Subclasses give what applies.

    activation: (name, parameter) of the function that is all a stage computes, of float32 and of each element. followed: a stage
    whose result goes through such a function and is y then; None where it does not take it in."""

    def activation(self, stage: Stage) -> tuple[str, float] | None:
        return None

    def followed(self, stage: Stage, activation: tuple[str, float], y: Value) -> Stage | None:
        return None

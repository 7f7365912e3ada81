"""What passes ask of an operator: one small record for each question, which its contract answers.

A pass never asks for an operator by its name. It reads a record of `Operator` (rtaccel.core.registry), and leaves an operator
alone that has none. Questions about rows and time steps: rtaccel.core.row_traits. About stages of a plan:
rtaccel.core.stage_traits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FALLBACK = "torch"
"""Stands in place of an operator's name for a call that stays PyTorch's, and of a kernel's in reports."""


class Node(Protocol):
    """A node of the graph as its operator sees it: names of the values it reads and writes, float32 tensors, attributes. The
    first value that it writes is its result."""

    op: str
    name: str
    reads: list[str]
    writes: list[str]
    tensors: dict[str, Tensor]
    attrs: dict[str, Any]


class Role(Enum):
    """What the compiler itself needs an operator for: it asks for the one that says so."""

    GATHER = "copies rows (attrs rows), or elements (attrs index), of its input"
    TABLE = "gives the row of a constant table (tensor table) that a count says, and counts on"
    COPY = "copies parts of values by strides into its output (attrs parts, fill)"
    FORMULA = "makes float32 of float32 by strides (attrs program, dims, places)"
    WHOLE = "makes int64 or float32 of int64, float32, int32 or bool (attrs program, dims, places)"
    CAST = "makes float32 of float16 or bfloat16, or one of these of float32"
    RUNNING = "joins each number with all of the steps before it, in a state (attrs kind, dims, places, last, stream)"
    DRAW = "gives float32 numbers in [0, 1), others in each call (attrs seed, place)"
    KEEP = "writes a value to a state, for the next call (tensor initial: what it holds at first)"
    PAIRS = "joins differences of all pairs of rows (attrs kind, of, sizes, places)"
    QUANTIZE = "makes int8 of float32: with the static scale of its output, or with a scale per row as a second output"


def no_names(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Weights:
    """Of an operator whose weights a scheme may store in another format.

    matrices: tensors -> names of the weights [N, ...]; a row of each is what one output multiplies.
    of_input: those whose columns are the columns of the operator's first input, one for one.
    schemes: names of the schemes that there are kernels for; None for every scheme. () where a node of the graph never has the
        operator.
    inside: how a float32 input becomes int8 beside int8 or int4 weights, where its attributes do not say so; None where it is
        multiplied as it is.
    computed_by: the operator that computes the node, given the attributes that a scheme adds; None for the operator itself.
    """

    matrices: Callable[[Mapping[str, Tensor]], Sequence[str]]
    of_input: Callable[[Mapping[str, Tensor]], Sequence[str]] = no_names
    schemes: tuple[str, ...] | None = ()
    inside: Literal["static", "dynamic"] | None = None
    computed_by: Callable[[Mapping[str, Any]], str | None] = lambda attrs: None


Affine = Callable[["dict[str, Tensor]", "Tensor", "Tensor"], "dict[str, Tensor]"]
"""(tensors, scale, shift) -> the tensors of the operator with a scale and shift for each column inside."""


@dataclass(frozen=True)
class Folding:
    """What an operator takes in of the elementwise nodes around it.

    activation: an activation that follows. residual: a value that is added to its result before the activation, as a last input.
    after, before: a scale and shift of its result, of its first input. sum_before: a sum of two inputs that it reads; it reads
    the two then, and gives the sum as a second output where another node reads it.
    join: of two nodes that read the same input, the tensors and attributes of one that gives their sum, or None.
    skip: (tensors, attrs, scale, shift) -> the tensors with its input times a scale plus a shift added to the result, or None.
    columns: of a node and some of its columns in an order, the tensors and attributes of one that gives these, or None.
    """

    activation: bool = True
    residual: bool = False
    after: Affine | None = None
    before: Affine | None = None
    sum_before: bool = False
    join: Callable[[Node, Node], tuple[dict[str, Tensor], dict[str, Any]] | None] | None = None
    skip: Callable[[dict[str, Tensor], Mapping[str, Any], Tensor, Tensor], dict[str, Tensor] | None] | None = None
    columns: Callable[[Node, Sequence[int]], tuple[dict[str, Tensor], dict[str, Any]] | None] | None = None


class Elementwise(Protocol):
    """An operator that works element by element, so that it can go into a neighbor. Stages and nodes are asked alike."""

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Its scale and shift for each column; None where it has none."""

    def adds(self, inputs: int, tensors: Mapping[str, Tensor], attrs: Mapping[str, Any]) -> bool:
        """Whether it is a sum of two inputs, before its activation."""


class Merging(Protocol):
    """An operator whose nodes take in others of their kind, so that they are one pass."""

    def in_form(self, node: Node, buffers: Mapping[str, Any]) -> Node | None:
        """What can be joined: the node itself, or another that computes the same; None where it must stay as it is."""

    def takes_in(self, node: Node, source: Node, elements: int) -> bool:
        """Whether the node now computes what `source` gave it itself, too; then nobody reads that. elements: of that value."""

    def settle(self, node: Node, buffers: Mapping[str, Any]) -> None:
        """The node in its plainest form, once the rows of all values (steps, width, elements) are known."""


class StateObserver(Protocol):
    """Sees the calls of a node in calibration, for the range of a state that it keeps in int8."""

    def observe(self, node: Any, args: tuple[Any, ...], result: Any) -> None:
        """One call: the torch.fx node, its arguments and what it gave."""

    @property
    def scale(self) -> float | None:
        """Of the state, attribute h_scale of the stage; None where the calls did not show its range."""

    @property
    def note(self) -> str:
        """What the report says where they did not."""


@dataclass(frozen=True)
class Recurrence:
    """gates: of the operator's cell. states: what is carried from step to step, in the order of its inputs and outputs."""

    gates: int
    states: tuple[str, ...]


class Persistent(Enum):
    """How persistent kernels on a GPU take an operator."""

    CHAIN = "one stage is the whole network"
    STACK = "it keeps its states, and a linear head may follow"
    STREAM = "with all stages of a stream, in the kernel's own order"

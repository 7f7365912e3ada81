"""The two tables: operators (contracts) and implementations (kernels).

An operator is a folder in `rtaccel.kernels` with a `contract.py`. An implementation registers itself
when its file is imported; files are found by name, so nothing central is edited to add one. A file is
imported only when its backend is asked for, so a machine without Triton never imports Triton.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.row_traits import RowsNeeded, Streaming
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.stage_traits import Formula, Fusion, Int8Flow, Pairs, Planes, Sparse, Squares
from rtaccel.core.traits import Elementwise, Folding, Merging, Persistent, Recurrence, Role, Weights

if TYPE_CHECKING:
    from torch import Tensor

Prepared = Callable[..., "tuple[Tensor, ...]"]
"""What `prepare` returns: input tensors in, a tuple of output tensors out, each [M, *value.shape]. Kernels of an operator
that is `by_row` are only ever given matrices: the steps are joined with the samples before, and parted after.
One that changes tensors of its own from call to call names them in an attribute `kept`. One that writes its results where
it is told has a method `into(outputs, *inputs)`, with None for a result in memory of its own; `over` says which outputs may lie
over which inputs, by their numbers."""


@dataclass(frozen=True)
class Cost:
    """What a stage must at least do: bytes it moves and multiply-adds counted as two operations."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Tolerance:
    """How far an implementation may be from the reference; the default is bit-identical."""

    atol: Tensor | float = 0.0
    steps: int = 0
    """atol: for float outputs, per element or one number; 0 means bit-identical. steps: for int8 outputs."""

    def within(self, got: Tensor, want: Tensor) -> Tensor:
        """Of each element of one output, whether it is near enough; equal infinities and two NaN are."""
        near = (got.double() - want.double()).abs() <= (self.atol if want.is_floating_point() else self.steps)
        return near | (got == want) | (got.isnan() & want.isnan())


@dataclass(frozen=True)
class Case:
    """One conformance case: a stage and a maker of inputs. `make(seed)` gives fresh random inputs."""

    id: str
    stage: Stage
    make: Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operator:
    """The contract of one operator.

    axes: tensor name -> named axes, for the docs and for error texts.
    reference: plain torch, the meaning of the operator: (stage, *inputs) -> outputs.
    cases: conformance cases, small and odd sizes first.
    tolerance: (stage, *inputs) -> Tolerance, derived from the arithmetic. cost: what it must move and do.
    lower: the numbers that every backend shares (folded multipliers and the like), computed once in
        torch so that all backends multiply by the same bits. A tuple of whole numbers is a table of indices.
    by_row: it treats every row alike, so that the steps of a sample are so many rows. An operator that mixes the
        steps of a sample (a convolution, attention, a recurrent layer) says False.
    packed_bytes: (stage) -> more than any kernel packs its weights into; None where the general bound, by the shape of
        each tensor, is enough.
    check: (what asks, stage, tensors), raises FormatError for tensors of the stage that no kernel may be given.
    make_stage: a stage with random weights from plain numbers and words, for the command line.
    whole_input: (stage) -> a number that all whole numbers among its inputs may be; 0 where there is none.
    feed: (stage, random inputs) -> inputs like them that it does not refuse; None where it refuses no number.
    exact: attrs with which no kernel takes an algorithm that rounds more than sums of products do.
    make_int8: of the operator with Role.QUANTIZE: (name, x, its int8 form, factor of each column or None) -> the stage.

    The others answer what passes ask: rtaccel.core.traits, row_traits and stage_traits. A pass leaves an operator alone that
    has no answer.
    """

    name: str
    axes: Mapping[str, tuple[str, ...]]
    reference: Callable[..., tuple[Tensor, ...]]
    cases: Callable[[], Iterable[Case]]
    tolerance: Callable[..., Tolerance]
    cost: Callable[[Problem], Cost]
    lower: Callable[[Stage], Mapping[str, Any]]
    by_row: bool = True
    packed_bytes: Callable[[Stage], int] | None = None
    check: Callable[[str, Stage, Mapping[str, Tensor]], None] | None = None
    make_stage: Callable[..., Stage] | None = None
    make_int8: Callable[[str, Value, tuple[Value, ...], Tensor | None], Stage] | None = None
    whole_input: Callable[[Stage], int] | None = None
    feed: Callable[[Stage, tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None
    exact: Mapping[str, Any] = field(default_factory=dict)
    role: Role | None = None
    weights: Weights | None = None
    int8: Int8Flow = field(default_factory=Int8Flow)
    folding: Folding | None = None
    elementwise: Elementwise | None = None
    merging: Merging | None = None
    rows_needed: RowsNeeded | None = None
    streaming: Streaming | None = None
    recurrence: Recurrence | None = None
    sparse: Sparse = field(default_factory=Sparse)
    fusion: Fusion = field(default_factory=Fusion)
    planes: Planes = field(default_factory=Planes)
    squares: Squares = field(default_factory=Squares)
    pairs: Pairs = field(default_factory=Pairs)
    formula: Formula = field(default_factory=Formula)
    persistent: Persistent | None = None


@dataclass(frozen=True)
class Impl:
    """One way to compute one operator.

    name: `<backend>_<idea>`. rank: the larger one is preferred among those that support a problem.
    supports: None, or a sentence saying why not. prepare: packs the weights and binds the function. why: of a problem that it
    supports, what speaks for it, where `explain` is to say so. launches: of a call, on a GPU, as plans compare them. waits: a
    call of it waits for the GPU, so that no graph can hold it.
    """

    op: str
    name: str
    backend: str
    rank: int
    supports: Callable[[Problem], str | None]
    prepare: Callable[[Stage, Problem], Prepared]
    why: Callable[[Problem], str] | None = None
    launches: int = 1
    waits: bool = False


_operators: dict[str, Operator] = {}
_impls: dict[tuple[str, str], Impl] = {}
_loaded: set[str] = set()


def whole_input(stage: Stage) -> int:
    """A number that whole numbers among the inputs of a stage may be."""
    asked = operators()[stage.op].whole_input
    return 0 if asked is None else asked(stage)


def register_operator(operator: Operator) -> Operator:
    _operators[operator.name] = operator
    return operator


def register_impl(impl: Impl) -> Impl:
    _impls[impl.op, impl.name] = impl
    return impl


def _load(stem: str) -> None:
    """Imports `rtaccel.kernels.<op>.<file>` for each file whose name is `stem` or starts with `stem_`, and every file of a
    folder `stem`. In `_core` that is cpu.py, which finds the kernels that C++ declared."""
    if stem in _loaded:
        return
    kernels = importlib.import_module("rtaccel.kernels")
    for folder in pkgutil.iter_modules(kernels.__path__):
        if not folder.ispkg or (folder.name.startswith("_") and folder.name != "_core"):
            continue
        package = importlib.import_module(f"rtaccel.kernels.{folder.name}")
        for file in pkgutil.iter_modules(package.__path__):
            if file.name == stem or file.name.startswith(f"{stem}_"):
                found = importlib.import_module(f"{package.__name__}.{file.name}")
                for inner in pkgutil.iter_modules(found.__path__ if file.ispkg else ()):
                    importlib.import_module(f"{found.__name__}.{inner.name}")
    _loaded.add(stem)


def operators() -> dict[str, Operator]:
    """Every operator, by name."""
    _load("contract")
    return dict(_operators)


def operator(name: str) -> Operator:
    found = _operators.get(name) or operators().get(name)
    if found is None:
        raise UnsupportedProblem(
            "operator", repr(name), "one of " + ", ".join(sorted(_operators)), "See docs/reference/kernels.md."
        )
    return found


def with_role(role: Role) -> Operator:
    """The operator that the compiler uses for something of its own."""
    return next(operator for operator in operators().values() if operator.role is role)


def impls(backend: str, op: str | None = None) -> list[Impl]:
    """The implementations of a backend (which must be available), preferred ones first."""
    _load(backend)
    found = [i for i in _impls.values() if i.backend == backend and op in (None, i.op)]
    return sorted(found, key=lambda i: -i.rank)

"""From a model with state of its own to a compiled one that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import capture
from rtaccel.convert.frontend.exported.example import shared_batch
from rtaccel.convert.frontend.exported.graph import ChangesItself, ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.own_state.function import as_function, carried
from rtaccel.convert.frontend.own_state.places import OwnState, own_state
from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.kept_states import Keeping, KeptState, NotKept, with_states_kept
from rtaccel.convert.lower import lower
from rtaccel.convert.passes.program import Program
from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.core.batch import ANY_BATCH, only
from rtaccel.core.errors import RtaccelError, UnsupportedProblem
from rtaccel.core.scheme import SchemeMap
from rtaccel.runtime.build import SWAPPED_TOLERANCE, ExportFailed, NoState
from rtaccel.runtime.gpu.graph_stream import FOR_EVER
from rtaccel.runtime.options import Options
from rtaccel.runtime.stateful.model import StatefulModel
from rtaccel.runtime.stateful.verify import verified_calls
from rtaccel.runtime.verification.verify import other_values

if TYPE_CHECKING:
    from rtaccel.kernels._core.cpu import States

Build = Callable[[ExportedGraph, OpGraph, Keeping, Any], StatefulModel]


def compiled_with_state(
    model: nn.Module, args: tuple[Any, ...], known: tuple[str, ...], build: Build, calibration: Any, *, verify: bool,
    exact: bool, names: tuple[str, ...],
) -> StatefulModel:  # fmt: skip
    """known: what was seen to be state, by dotted name. build: gives the compiled model for a graph, what it keeps, and
    calibration batches that hold states as well. exact: that computes in float32, and is compared itself.

    Raises ExportFailed where the model has to run as it is, NoState where no call reads what moved.
    """
    try:
        captured = _captured(model, args, known)
    except NoState:
        raise
    except UnsupportedProblem as error:
        raise ExportFailed("compile", error.got, error.expected, error.next_step) from error
    except RtaccelError:
        raise
    except Exception as error:  # of the model, called a few times, or of torch
        said = (str(error).splitlines() or [""])[0][:200]
        raise ExportFailed(
            "compile", f"{type(model).__name__}, which changes itself when called, and raises {type(error).__name__}: {said}",
            "a model without state of its own", "Take the state as an input and return it as an output.",
        ) from error  # fmt: skip
    batches = None if calibration is None else list(captured.calls(calibration))
    try:
        fast = build(captured.exported, captured.graph, captured.keeping, batches)
    except NotKept as error:
        raise ExportFailed("compile", error.got, error.expected, error.next_step) from error
    fast.note(captured.note)
    if not verify:
        return fast
    shadow = fast if exact else captured.in_float32(names)
    tolerance = SWAPPED_TOLERANCE if any(d.swapped for d in captured.graph.op_nodes) else None
    found = verified_calls(model, shadow, args, tolerance)
    shadow.reset()
    if found.differs:
        next_step = "Take the state as an input and return it as an output."
        if captured.assumed:
            next_step = (
                f"Call the model once before it is compiled: {captured.assumed} held no tensor of the later shape."
            )
        raise ExportFailed(
            "compile", f"{type(model).__name__}, which changes {captured.shown} when called, and whose compiled form is not the "
            f"model: {found.differs}", "the model's own results", next_step,
        )  # fmt: skip
    fast.note_verified(found.note)
    return fast


def program_with_state(
    model: nn.Module, args: tuple[Any, ...], known: tuple[str, ...], schemes: SchemeMap, calibration: Any
) -> Program:
    """The program of a graph on a GPU, in which the model's state is kept. Its call is one sample."""
    captured = _captured(model, args, known)
    batches = None if calibration is None else list(captured.calls(calibration))
    program = lower(captured.exported, captured.graph, schemes, batches)
    return with_states_kept(program, captured.keeping)


def states_of(keeping: Keeping, program: Any) -> States:
    """What a native plan of the program keeps: for one sample, as all of a call is one."""
    from rtaccel.kernels._core.cpu import States

    step = program.steps[0]
    names = {stage.outputs[0].name for stage in step.group.stages[-len(keeping.kept) :]}
    return States(frozenset(names), 1, FOR_EVER)


def _captured(model: nn.Module, args: tuple[Any, ...], known: tuple[str, ...]) -> CapturedState:
    """A graph may show more state than calls did: what inputs of another kind would move."""
    while True:
        try:
            return CapturedState(model, args, frozenset(known))
        except ChangesItself as error:
            if {*error.names} <= {*known}:
                raise
            known = (*known, *error.names)


class CapturedState:
    """A model as the graph of a function of its state. known: names of what is state, whether or not a few calls move it."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], known: frozenset[str] = frozenset()) -> None:
        generator = torch.Generator().manual_seed(3)
        found = own_state(lambda: private_copy("compile", model), args, lambda: other_values(args, generator), known)
        self._title, self._args, self._found = type(model).__name__, args, found
        self.shown = ", ".join(f"self.{name}" for name in found.names)
        self._function = as_function(found, len(args))
        self._first = [carried(t) for t in found.initial]
        try:
            self.exported = capture(self._function, (*args, *self._first), fixed=True)
        except ChangesItself:
            raise
        except UnsupportedProblem as error:
            raise self._refused(
                f"cannot be captured with that: {error.got}",
                f"{error.next_step.removesuffix('.')}. Take one of two values with torch.where.",
            ) from error
        self.graph = build_graph(self.exported, None)
        left = [d for d in self.graph.op_nodes if d.is_fallback]
        if left:
            raise self._refused(
                f"of which {left[0].name} has no kernel ({left[0].reason})", "See docs/reference/operators.md."
            )
        self.keeping = self._kept(found)
        self.note = f"{self.shown} {'is' if len(found.names) == 1 else 'are'} kept from call to call"
        self.assumed = ", ".join(f"self.{name}" for name in found.assumed)
        if self.assumed:
            self.note += f"; zeros stand for what {self.assumed} did not hold at first"

    def _refused(self, got: str, next_step: str) -> UnsupportedProblem:
        return UnsupportedProblem(
            "compile", f"{self._title}, which changes {self.shown} when called, and {got}", "a model without state of its own",
            f"{next_step} Or take the state as an input and return it as an output.",
        )  # fmt: skip

    def _kept(self, found: OwnState) -> Keeping:
        """A state that no later call writes holds what the first one left there: a cache."""
        count = len(found.initial)
        ends = zip(self.exported.inputs[-count:], self.graph.outputs[-count:])
        self._first = [carried(b if i == o else a) for a, b, (i, o) in zip(found.initial, found.later, ends)]
        read = {name for node in self.graph.op_nodes for name in node.reads} | self.graph.kept
        buffers = {name for place in found.places if place.buffer for name in place.leaves}
        states = tuple(
            KeptState(name, tuple(t.shape), t.dtype, first, name in buffers or given in read)
            for name, t, first, given in zip(found.names, found.initial, self._first, self.exported.inputs[-count:])
        )
        if not any(state.needed for state in states):
            none = NoState("compile", f"{self.shown}, which no call reads", "state", "Compile it as other models.")
            none.names = tuple(f"{place.module}.{place.name}".lstrip(".") for place in found.places)
            raise none
        size = shared_batch(self._args)
        batch = ANY_BATCH if size is None else only(size, "the state that the model keeps was made with the example")
        result = self.exported.out_spec.children()[0]
        return Keeping(states, pytree.tree_structure((self._args, {})), result, batch)

    def calls(self, calibration: Any) -> Iterator[tuple[Any, ...]]:
        """Calibration batches in sequence, each with the states that those before left. A batch of several times the rows of the
        example is so many calls."""
        states: tuple[Tensor, ...] = tuple(self._first)
        size = shared_batch(self._args)
        for batch in batches_of("compile", calibration):
            for part in _parts(as_args(batch), size):
                yield (*part, *states)
                try:
                    with torch.no_grad():
                        states = tuple(self._function(*part, *states)[1:])
                except Exception:  # calibration says what is wrong with the batch
                    return

    def in_float32(self, names: tuple[str, ...]) -> StatefulModel:
        program = with_states_kept(
            lower(self.exported, self.graph, SchemeMap("float32"), None, equalize=False), self.keeping
        )
        return StatefulModel(program, Options(1, batch=program.batch, kept=states_of(self.keeping, program)), names)


def _parts(args: tuple[Any, ...], size: int | None) -> Iterator[tuple[Any, ...]]:
    """The calls that a batch is."""
    given = shared_batch(args)
    if size is None or given is None or given == size or given % size:
        yield args
        return
    for first in range(0, given, size):
        yield pytree.tree_map(lambda leaf, at=first: leaf[at : at + size] if isinstance(leaf, Tensor) else leaf, args)

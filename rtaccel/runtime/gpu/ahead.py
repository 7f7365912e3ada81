"""Which GPU kernels a model will bind, found without a GPU, so that they can be built ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.batch_mode import choose_batch_mode
from rtaccel.convert.frontend.exported.example import check_example
from rtaccel.convert.frontend.exported.graph import ChangesItself
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.convert.lower import lower
from rtaccel.convert.passes.program import Program, SubgraphStep
from rtaccel.convert.passes.sparse_gpu import in_predicted_form
from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import impls
from rtaccel.core.scheme import SchemeLike, SchemeMap
from rtaccel.core.stage import Problem
from rtaccel.plan.fuse import fuse
from rtaccel.plan.group import StagedPlan, Subgraph
from rtaccel.runtime.build import HasState, check_state
from rtaccel.runtime.stateful.build import program_with_state

if TYPE_CHECKING:
    from rtaccel.kernels._gpu.cubin_store import Cubin
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
    from rtaccel.kernels._gpu.triton_spec import Specialisation


Kernels = dict[str, "Specialisation | CudaKernel"]


def kernels_of(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor, scheme: SchemeLike = "float32", calibration: Any = None
) -> Kernels:
    """The kernels, by key, that `rt.compile(model, example_inputs, scheme, calibration, device="cuda")` binds on the card that is
    here, or an H100.

    The numbers of the weights and scales do not matter, but for zeros; shapes, scheme, whether there is calibration data and
    whether that brings columns of an input to one range do.
    """
    program, rows = _lowered(model, example_inputs, scheme, calibration)
    return _recorded(in_predicted_form(program, rows), rows)


def kernels_by_card(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor, scheme: SchemeLike, calibration: Any, cards: Sequence[int]
) -> Iterator[tuple[int, Kernels]]:
    """The same for cards of these compute capabilities."""
    program, rows = _lowered(model, example_inputs, scheme, calibration)
    for capability in cards:
        yield capability, kernels_of_program(program, rows, capability, streamed=False)


def _lowered(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor, scheme: SchemeLike, calibration: Any
) -> tuple[Program, int]:
    model = in_python("compile", model)
    args = check_example(model, example_inputs)
    try:
        check_state("compile", model, args)
        captured, graph = choose_batch_mode(model, args)
    except (HasState, ChangesItself) as found:
        return program_with_state(model, args, found.names, SchemeMap(scheme), calibration), 1
    program = lower(captured, graph, SchemeMap(scheme), calibration)
    return program, max(1, program.samples(pytree.tree_leaves(args)))


def persistent_kernels_of(
    model: nn.Module,
    example: Sequence[Any] | Tensor,
    scheme: SchemeLike,
    calibration: Any,
    capability: int,
    streamed: bool,
) -> dict[str, Specialisation | CudaKernel]:
    """The persistent kernel on a card of this capability for `rt.stream(model, example, ..., device="cuda")`, or, not streamed,
    for `rt.compile(model, example, ..., device="cuda", mode="persistent")`.

    Forms are for 132 multiprocessors where no card is seen, and for the number it has where one is.
    """
    from rtaccel.kernels._gpu.triton_launch import recording
    from rtaccel.kernels._persistent.card import Card, assuming, card
    from rtaccel.runtime.gpu.persistent import persistent_network
    from rtaccel.runtime.streaming.program import stream_program

    model = in_python("stream" if streamed else "compile", model)
    args = check_example(model, example)
    if streamed:
        program = stream_program(model, args[0], scheme, calibration, "persistent").program
    else:
        captured, graph = choose_batch_mode(model, args)
        program = lower(captured, graph, SchemeMap(scheme), calibration)
    groups = [step.group for step in program.steps if isinstance(step, SubgraphStep)]
    if len(groups) != 1 or len(program.steps) != 1:
        raise UnsupportedProblem("persistent", f"{len(program.steps)} steps", "one", "Build it for graphs instead.")
    with assuming(Card(capability, card().multiprocessors)), recording() as found:
        persistent_network(groups[0], streamed).prepared("cpu")
    return found


def stream_kernels_of(
    model: nn.Module, example: Sequence[Any] | Tensor, scheme: SchemeLike, calibration: Any, capability: int
) -> Kernels:
    """The kernels on a card of this capability for `rt.stream(model, example, ..., device="cuda")`, in the mode that it takes by
    default: of one stream a persistent kernel, of several those of a graph."""
    from rtaccel.kernels._gpu.triton_launch import recording
    from rtaccel.kernels._persistent.card import Card, assuming, card
    from rtaccel.runtime.gpu.graph_stream import with_states
    from rtaccel.runtime.gpu.marks import Marks
    from rtaccel.runtime.streaming.program import default_mode, stream_program

    model = in_python("stream", model)
    (step,) = check_example(model, example)
    if default_mode(step) == "persistent":
        return persistent_kernels_of(model, example, scheme, calibration, capability, True)
    found = stream_program(model, step, scheme, calibration, "graph")
    (source,) = found.program.steps
    assert isinstance(source, SubgraphStep) and found.states is not None
    stated = with_states(source.group, found.states.names)
    with assuming(Card(capability, card().multiprocessors)), recording() as kernels:
        staged = _bind(stated.whole, len(step))
        Marks(staged, source.group, stated.after, found.states.memory, bool(stated.rings))
    return kernels


def kernels_of_program(
    program: Program, rows: int, capability: int, streamed: bool
) -> dict[str, Specialisation | CudaKernel]:
    """The same for a program that was lowered: of its graph for a batch of `rows`, or of its persistent stream on a card of this
    capability. Raises UnsupportedProblem where a stream has no persistent kernel."""
    from rtaccel.kernels._gpu.triton_launch import recording
    from rtaccel.kernels._persistent.card import Card, assuming, card

    if not streamed:
        with assuming(Card(capability, card().multiprocessors)):
            return dict(_recorded(in_predicted_form(program, rows), rows))
    from rtaccel.runtime.gpu.persistent import persistent_network

    (step,) = program.steps
    assert isinstance(step, SubgraphStep)
    with assuming(Card(capability, card().multiprocessors)), recording() as found:
        persistent_network(step.group, True).prepared("cpu")
    return found


def build(kernel: Specialisation | CudaKernel, capability: int) -> Cubin:
    """Compiled for a card of this capability, by Triton or NVRTC."""
    from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel, compile_cubin
    from rtaccel.kernels._gpu.triton_aot import build

    return compile_cubin(kernel, capability) if isinstance(kernel, CudaKernel) else build(kernel, capability)


def _recorded(program: Program, rows: int) -> Kernels:
    from rtaccel.kernels._gpu.triton_launch import recording

    with recording() as found:
        for step in program.steps:
            if isinstance(step, SubgraphStep):
                _bind_kept(step.group, rows)
    return found


def _bind_kept(group: Subgraph, rows: int) -> None:
    """A group as its graph has it: with the states that it keeps at its edge, where it keeps any."""
    from rtaccel.runtime.gpu.graph_stream import FOR_EVER, beginnings, with_states
    from rtaccel.runtime.gpu.marks import Marks

    begins = beginnings(group.stages)
    if not begins:
        _bind(group, rows)
        return
    stated = with_states(group, frozenset(begins))
    staged = _bind(stated.whole, rows)
    Marks(staged, group, stated.after, FOR_EVER, bool(stated.rings))


def _bind(group: Subgraph, rows: int) -> StagedPlan:
    """Prepares the stages as a plan on a GPU would, with packed weights in memory of the CPU."""
    group = replace(group, stages=fuse(group.stages, [p.value for p in group.outputs], rows))
    for stage in group.stages:
        for impl in impls("triton", stage.op):
            if impl.supports(Problem.of(stage, rows, "cuda")) is None:
                impl.prepare(stage, Problem.of(stage, rows, "cpu"))
                break
    return StagedPlan(group, [], ANY_BATCH, "cuda", triton=True)

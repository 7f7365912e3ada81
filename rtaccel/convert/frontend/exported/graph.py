"""A model as a graph of ATen calls: what torch.export gave, with what kernels do not take rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.all_entries.rewrite import with_all_entries
from rtaccel.convert.frontend.complex.rewrite import without_complex
from rtaccel.convert.frontend.decompositions.counting import count_in_float
from rtaccel.convert.frontend.decompositions.half import in_float32
from rtaccel.convert.frontend.decompositions.read_numbers import keep_as_tensors
from rtaccel.convert.frontend.exported.joined_parts import parts_apart
from rtaccel.convert.frontend.exported.joined_samples import gather_within_samples
from rtaccel.convert.frontend.exported.kernel_calls import as_called
from rtaccel.convert.frontend.exported.one_constant import read_by_one_name
from rtaccel.convert.frontend.exported.one_number import with_a_dimension
from rtaccel.convert.frontend.exported.weighed_bags import bags_weighed
from rtaccel.convert.frontend.guards.depends import of_inputs
from rtaccel.convert.frontend.packed import check_longest
from rtaccel.convert.frontend.rolled import with_loops_rolled
from rtaccel.convert.frontend.subgraphs import inline_subgraphs
from rtaccel.core.batch import BatchRange
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.qat.layers import TrainedNumbers


@dataclass(frozen=True)
class ExportedGraph:
    """graph: functional ATen calls. constants: placeholder name -> parameter or buffer. inputs: names of the
    placeholders of the flattened arguments. in_spec, out_spec: how arguments and results are nested.
    any_batch: the first dimension of every tensor is open in the graph. batch: the sizes of it for which the graph is the
    model. retraced: the calls of one run, not what torch.export took from the code. fitted: the graph for arguments of other
    sizes, where further dimensions are open. trained: numbers of layers that trained with fake quantization, by dotted name.
    halves: what the model's numbers are in that the graph computes in float32.
    guarded: how the model's results are nested, where those of the graph are in one row and a flag is the last of them.
    repeats: name of a node -> those of the values that it is one of, where what is computed is a body of a loop."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    inputs: tuple[str, ...]
    in_spec: Any
    out_spec: Any
    any_batch: bool
    batch: BatchRange
    retraced: bool = False
    fitted: Callable[[Sequence[Any]], ExportedGraph] | None = None
    trained: Mapping[str, TrainedNumbers] = field(default_factory=dict)
    guarded: Any = None
    halves: tuple[torch.dtype, ...] = ()
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class ChangesItself(UnsupportedProblem):
    """A graph that writes to buffers of the model. names: theirs, dotted."""

    names: tuple[str, ...] = ()


class ComputedRounds(UnsupportedProblem):
    """A loop or branch that numbers decide is part of the graph."""


def as_graph(
    program: torch.export.ExportedProgram, batch: BatchRange, any_batch: bool, rolled: bool = True
) -> ExportedGraph:
    """rolled: whether loops over time steps become calls over all of them."""
    signature = program.graph_signature
    constants: dict[str, Tensor] = {}
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT" or not hasattr(spec.arg, "name"):
            continue
        if spec.kind.name == "CUSTOM_OBJ":
            raise UnsupportedProblem(
                "compile",
                f"a model that makes {spec.target} of its own when called, such as a torch.Generator",
                "calls on tensors",
                "Make it before, and draw its numbers where the model is made.",
            )
        value = program.state_dict.get(spec.target)
        if value is None:
            value = program.constants.get(spec.target)
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided
            constants[spec.arg.name] = value.detach() if dense else value.detach().to_dense()
    mutated = _keep_own_results(program)
    if mutated:
        refused = ChangesItself(
            "compile",
            f"a model that changes {', '.join(mutated)} when called",
            "a model without state of its own",
            "Return the state as an output and pass it in as an input.",
        )
        refused.names = tuple(mutated)
        raise refused
    inline_subgraphs(program.graph_module)
    called = [n for n in program.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)]
    if called:
        raise ComputedRounds(
            "compile",
            f"a model that calls torch.{called[0].target.name()}, whose branches or rounds depend on numbers",
            "a graph that is the same at every call",
            "Compute both branches and take one with torch.where, or write a fixed number of rounds out.",
        )
    read_by_one_name(program.graph, constants)
    as_called(program.graph)
    bags_weighed(program.graph, constants)
    inputs = tuple(spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT")
    check_longest(program.graph)
    halves = in_float32(program.graph, constants, inputs)
    keep_as_tensors(program.graph)
    with_a_dimension(program.graph)
    without_complex(program.graph)  # what is left complex stays PyTorch's
    count_in_float(program.graph)
    gather_within_samples(program.graph)
    parts_apart(program.graph)
    graph = with_all_entries(program.graph)
    return ExportedGraph(
        graph=with_loops_rolled(graph) if rolled else graph,
        constants=constants,
        inputs=inputs,
        in_spec=program.call_spec.in_spec,
        out_spec=program.call_spec.out_spec,
        any_batch=any_batch,
        batch=batch,
        halves=halves,
    )


def _keep_own_results(program: torch.export.ExportedProgram) -> list[str]:
    """Takes results that are written back to parameters and buffers off the graph where no input decides them: calls settle them,
    as `attribute_state` has seen. Names of the others."""
    wanted = set(program.graph_signature.user_inputs)
    specs = program.graph_signature.output_specs
    output = next(node for node in program.graph.nodes if node.op == "output")
    results = list(output.args[0])
    kept, mutated = [], []
    for spec, result in zip(specs, results):
        if spec.kind.name == "USER_OUTPUT":
            kept.append(result)
        elif spec.kind.name == "USER_INPUT_MUTATION" or not isinstance(result, fx.Node) or of_inputs(result, wanted):
            mutated.append(str(spec.target))
    if not mutated and len(kept) < len(results):
        output.args = (tuple(kept),)
        program.graph.eliminate_dead_code()
    return mutated

"""A compiled model cut in two: the stages before, the stages after, and the values that cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rtaccel.convert.passes.program import Argument, FallbackStep, Program, SubgraphStep
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import GraphIO, Stage
from rtaccel.plan.group import Subgraph
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.eager_fallback import UncapturedModel


def whole_group(op: str, fast: Any) -> Subgraph:
    """The one native plan of a compiled model. Raises UnsupportedProblem, with the reason, for a model that is none."""
    expected, what = "a compiled model that is one native plan on the CPU, without states", ""
    if isinstance(fast, UncapturedModel):
        raise UnsupportedProblem(op, "a model that was not captured", expected, "See its explain() for the reason.")
    if not isinstance(fast, CompiledModel):
        raise UnsupportedProblem(op, f"a {type(fast).__name__}", expected, "Pass what rt.compile gave.")
    program, options = fast._program, fast._options
    fallbacks = [step.name for step in program.steps if isinstance(step, FallbackStep)]
    if options.plan_states is not None:
        what = "a model that keeps states on one side"
    elif options.device != "cpu":
        what = f"a model on {options.device}"
    elif fallbacks:
        what = f"PyTorch calls inside ({', '.join(fallbacks[:4])})"
    elif fast._direct is None or not fast._executor.steps[0].native:
        what = "a model whose arguments or results are not plain tensors of one native plan"
    if what:
        raise UnsupportedProblem(op, what, expected, "See explain(); rt.Hedged takes such a model whole.")
    step = program.steps[0]
    assert isinstance(step, SubgraphStep)
    return step.group


@dataclass(frozen=True)
class Crossing:
    """What passes a cut. at: stages before it. ports: of the values that cross, as tensors. kept: names of the model's outputs
    that are made before it. raw: names of the crossing values that are inputs in another form: no weights were at work."""

    at: int
    ports: tuple[GraphIO, ...]
    kept: tuple[str, ...]
    raw: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(port.value.name for port in self.ports)


def crossings(group: Subgraph) -> list[Crossing]:
    """Every cut of the stages in their order, from none before it to all before it."""
    first = group.inputs[0]
    ports = {port.value.name: port for port in group.inputs}
    outputs = [port.value.name for port in group.outputs]
    raw = set(ports)
    last_use = {v.name: i for i, stage in enumerate(group.stages) for v in stage.inputs}
    found = []
    for at in range(len(group.stages) + 1):
        if at:
            stage = group.stages[at - 1]
            hides = has_weights(stage)
            for value in stage.outputs:
                made = GraphIO(value, first.lead, value.shape, first.middle)
                ports[value.name] = next((p for p in group.outputs if p.value.name == value.name), made)
                if not hides and any(v.name in raw for v in stage.inputs):
                    raw.add(value.name)
        crossing = tuple(port for name, port in ports.items() if last_use.get(name, -1) >= at)
        kept = tuple(name for name in outputs if name in ports)
        found.append(Crossing(at, crossing, kept, tuple(p.value.name for p in crossing if p.value.name in raw)))
    return found


def has_weights(stage: Stage) -> bool:
    """Whether a matrix of weights is at work: from what comes out the input is not to be read off."""
    return any(name.startswith("weight") and tensor.dim() >= 2 for name, tensor in stage.tensors.items())


@dataclass(frozen=True)
class Halves:
    """edge: arguments of the model -> the crossing values that it computes, then the kept outputs that are none of them; a
    compiled model, or the parts of one with exits between them; None: no stage. cloud: the crossing values -> the outputs that
    are not kept; None: no stage. Both give tuples.
    sent: for each crossing value (where it is from, its place there): "input" of the model's flattened arguments, or "edge".
    made: for each of the model's outputs (which side, its place there)."""

    crossing: Crossing
    edge: Any
    cloud: CompiledModel | None
    sent: tuple[tuple[str, int], ...]
    made: tuple[tuple[str, int], ...]
    out_spec: Any

    def crossing_values(self, inputs: Sequence[Any], edge: Sequence[Any]) -> tuple[Any, ...]:
        """What is sent. inputs: the flattened arguments. edge: what the edge gave."""
        sides = {"input": inputs, "edge": edge}
        return tuple(sides[side][i] for side, i in self.sent)

    def result(self, edge: Sequence[Any], cloud: Sequence[Any]) -> Any:
        """The model's result from those of the halves. Without an answer of the cloud its outputs are None."""
        sides = {"edge": edge, "cloud": cloud or (None,) * len(self.made)}
        return pytree.tree_unflatten([sides[side][i] for side, i in self.made], self.out_spec)


def halved(fast: CompiledModel, crossing: Crossing, early: Any = None) -> Halves:
    """The two compiled models of a cut. With exact wires they give the bits that the whole gives. early: from (all cuts, names of
    what it has to give) to an edge in parts, where that is wanted."""
    group, program = whole_group("split", fast), fast._program
    cuts, at, names = crossings(group), crossing.at, crossing.names
    # Behind the last stage nothing crosses, and what the edge makes is the result.
    inputs = [port.value.name for port in group.inputs]
    if early is None:
        _, edge_names, edge = part(fast, cuts, 0, at, "edge")
    else:
        edge_names = _given(group, cuts, 0, at)
        edge = early(cuts, edge_names)
    _, cloud_names, cloud = part(fast, cuts, at, len(group.stages), "cloud")
    made = tuple(
        ("edge", edge_names.index(n)) if n in crossing.kept else ("cloud", cloud_names.index(n))
        for n in program.outputs
    )
    sent = tuple(("input", inputs.index(n)) if n in inputs else ("edge", edge_names.index(n)) for n in names)
    return Halves(crossing, edge, cloud, sent, made, program.out_spec)


def part(
    fast: CompiledModel, cuts: Sequence[Crossing], begin: int, end: int, title: str
) -> tuple[tuple[str, ...], tuple[str, ...], CompiledModel | None]:
    """Stages from one cut to another as a compiled model: (names of what it takes, of what it gives, the model); None: no stage.
    From the beginning it takes the model's arguments as the model does."""
    group, program = whole_group("split", fast), fast._program
    stages, gives = group.stages[begin:end], _given(group, cuts, begin, end)
    if not stages:
        return (), gives, None
    by_name = {port.value.name: port for port in (*cuts[end].ports, *group.outputs)}
    outs = tuple(by_name[name] for name in gives)
    options = replace(fast._options, title=f"{fast._options.title}, {title}")
    if not begin:
        step = SubgraphStep(Subgraph(stages, group.inputs, outs), program.inputs, gives)
        own = _program(program, step, program.arguments, gives)
        made = CompiledModel(replace(own, in_spec=program.in_spec), options, fast._argument_names)
        return tuple(program.inputs), gives, made
    read = {v.name for stage in stages for v in stage.inputs}
    ports = tuple(port for port in cuts[begin].ports if port.value.name in read)
    names = tuple(port.value.name for port in ports)
    arguments = tuple(
        Argument(p.value.name, getattr(torch, p.value.dtype), (*((None,) * p.lead), *p.trailing)) for p in ports
    )
    step = SubgraphStep(Subgraph(stages, ports, outs), names, gives)
    return names, gives, CompiledModel(_program(program, step, arguments, gives), options, names)


def _given(group: Subgraph, cuts: Sequence[Crossing], begin: int, end: int) -> tuple[str, ...]:
    """Names of what the stages between two cuts make for those behind, and of the model's outputs among what they make."""
    made = {v.name for stage in group.stages[begin:end] for v in stage.outputs}
    return tuple(dict.fromkeys(n for n in (*cuts[end].names, *cuts[end].kept) if n in made))


def _program(whole: Program, step: SubgraphStep, arguments: tuple[Argument, ...], outputs: tuple[str, ...]) -> Program:
    return replace(
        whole, steps=(step,), inputs=step.reads, arguments=arguments, outputs=outputs, constants={},
        in_spec=pytree.tree_structure((tuple(0 for _ in step.reads), {})),
        out_spec=pytree.tree_structure(tuple(0 for _ in outputs)),
        source=None,  # a state that computes its layers in another way would move the cut: it is refused
    )  # fmt: skip

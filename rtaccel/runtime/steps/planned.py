"""From a program to what runs it: a plan for each group, on a CPU, in a graph, or in a persistent kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rtaccel.backends.cuda_errors import translated
from rtaccel.backends.cuda_persistent import refuse_loading
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.raw_kernel import raw_kernel_of
from rtaccel.plan.group import StagedPlan, Subgraph, plan_group
from rtaccel.runtime.gpu.device import device_layer
from rtaccel.runtime.gpu.graph import DevicePlan, GraphPlan
from rtaccel.runtime.gpu.graph_stream import graph_stream, with_states
from rtaccel.runtime.gpu.persistent import persistent_plan
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps.executor import Executor
from rtaccel.runtime.steps.step import Step

if TYPE_CHECKING:
    from rtaccel.kernels._core.cpu import States


def build_executor(program: Program, options: Options) -> Executor:
    """Raises BackendUnavailable on a GPU where a persistent kernel runs: to compile is to load code."""
    if options.mode == "persistent":
        return _persistent(program, options)
    if options.device != "cuda":
        return _planned(program, options)
    refuse_loading("compile", options.title)
    with translated("compile", device_layer("cuda").free_text):
        return _planned(program, options)


def _planned(program: Program, options: Options) -> Executor:
    steps = []
    for source in program.steps:
        if isinstance(source, FallbackStep):
            own = raw_kernel_of(source.node)
            reason = f"{source.reason}: it stays an ordinary torch call" if own is None else own.where(options.device)
            steps.append(Step(source, source.name, reason=reason))
            continue
        states = options.plan_states
        if states is not None and options.mode == "graph":
            plan, choices = graph_stream(source.group, states, device_layer(options.device), _planner(options))
            if waits := Step(source, "", choices=tuple(choices)).waits:
                raise UnsupportedProblem(
                    "stream", f"{', '.join(waits)} on {options.device}", "operators whose kernels a CUDA graph can hold",
                    "Stream on the CPU, or leave these calls outside of the stream.",
                )  # fmt: skip
        elif states is not None and options.mode == "eager":  # its kernels alone, for other weights
            plan, choices = _planner(options)(with_states(source.group, states.names).whole)
        else:
            plan, choices = _planner(options, states)(source.group)
        steps.append(Step(source, "native group", plan, tuple(choices)))
    executor = Executor(program, steps, options)
    if any(step.waits for step in steps):
        return executor
    if options.mode == "graph" and executor.direct is None and options.plan_states is None:  # that of states is a graph
        executor.join(device_layer(options.device))
    if options.mode != "graph" or executor.joined is not None or executor.direct is None:
        return executor
    step = executor.steps[0]  # the whole model is one group: it can be one graph
    return Executor(program, [replace(step, plan=_graph(step.plan, options))], options)


def _planner(options: Options, states: States | None = None) -> Callable[[Subgraph], tuple[Any, Any]]:
    def plan(group: Subgraph) -> tuple[Any, Any]:
        return plan_group(
            group, options.batch_size, options.device, options.backend, options.batch, options.threads, states
        )

    return plan


def _graph(plan: Any, options: Options) -> Any:
    if not isinstance(plan, StagedPlan) or isinstance(plan, DevicePlan):
        return plan
    return GraphPlan(plan, device_layer(options.device), options.batch_size)


def _persistent(program: Program, options: Options) -> Executor:
    """A program that is one chain, or one stack and its head, on a persistent kernel."""
    source = program.steps[0]
    plain = Executor(
        program, [Step(source, "persistent", StagedPlan(Subgraph((), (), ()), [], ANY_BATCH, "cpu"))], options
    )
    if len(program.steps) != 1 or not isinstance(source, SubgraphStep) or plain.direct is None:
        names = ", ".join(s.name if isinstance(s, FallbackStep) else "a group of stages" for s in program.steps)
        raise UnsupportedProblem(
            "persistent", names, "a model that is one chain of layers with tensors as arguments", "Use mode='graph'."
        )
    plan = persistent_plan(source.group, options.states is not None)
    return Executor(program, [Step(source, "persistent", plan)], options)

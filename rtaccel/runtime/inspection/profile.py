"""Where the time of one call goes: stages of native plans by the processor's counter, everything else by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.run_call import run_call
from rtaccel.convert.passes.program import FallbackStep, SubgraphStep
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem
from rtaccel.measure.stages import StageProfile, StageTime
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import StagedPlan
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.guarded import GuardedModel
from rtaccel.runtime.inputs import fit_inputs
from rtaccel.runtime.schedule.binder import Unbindable
from rtaccel.runtime.schedule.schedule import Schedule
from rtaccel.runtime.steps.executor import Executor
from rtaccel.runtime.steps.step import Step

MAX_CALLS = 100_000
WARM_CALLS = 20

Around = Callable[[str], AbstractContextManager[Any]]
"""A context for each stage that is launched from Python, by its name: an NVTX range, say."""

IN, OUT = "inputs into place", "outputs handed over"


def profile_stages(fast: Any, inputs: Sequence[Any], calls: int = 300, around: Around | None = None) -> StageProfile:
    """Time of every stage of a compiled model on these inputs, as medians over `calls` calls.

    A native plan is timed by its own core (rta_plan_profile): readings of the processor's counter between stages, in
    calls that alternate with calls as they are, whose median is `whole_us` where the model is one native call. Steps
    launched from Python (torch, plain-torch kernels, Triton) are timed from Python, and a GPU is waited for after each.
    The past of a stream stands as before afterwards.

    around: entered around each stage that is launched from Python.

    Raises UnsupportedProblem for a model that was not captured, FormatError for calls outside 1..100,000, and ShapeError
    for inputs that do not fit.

    >>> import torch, rtaccel as rt
    >>> from rtaccel.runtime.inspection.profile import profile_stages
    >>> fast = rt.compile(torch.nn.Linear(16, 4).eval(), (torch.randn(1, 16),))
    >>> [stage.kernel.startswith("cpu") for stage in profile_stages(fast, (torch.randn(1, 16),), calls=10).stages][1]
    True
    """
    if isinstance(fast, GuardedModel):
        fast = fast.plan
    if not isinstance(fast, CompiledModel):
        raise UnsupportedProblem(
            "profile",
            f"a {type(fast).__name__}",
            "a compiled model that was captured",
            "See its explain() for the reason.",
        )
    if not isinstance(calls, int) or isinstance(calls, bool) or not 1 <= calls <= MAX_CALLS:
        raise FormatError("profile", f"calls={calls!r}", f"a whole number, 1 to {MAX_CALLS:,}", "300 is a good start.")
    leaves, spec = pytree.tree_flatten((tuple(inputs), {}))
    if spec != fast._program.in_spec:
        raise ShapeError("profile", f"inputs nested as {spec}", f"{fast._program.in_spec}", "Pass those of one call.")
    with torch.no_grad(), _kept_states(fast._executor):
        return _Walk(fast._executor, calls, around or (lambda name: nullcontext())).go(leaves)


def plan_sizes(fast: CompiledModel) -> list[dict[str, int]]:
    """Of each native plan, in the order they run: bytes of packed weights, of scratch with states, and of states."""
    return [
        {"packed_bytes": p.packed_bytes, "scratch_bytes": p.scratch_bytes, "state_bytes": p.state_bytes}
        for p in fast._executor.native_plans
    ]


@contextmanager
def _kept_states(executor: Executor) -> Iterator[None]:
    plans = [step.plan for step in executor.steps if step.plan is not None]
    kept = [(plan, plan.save_state()) for plan in plans if plan.state_bytes]
    try:
        yield
    finally:
        for plan, state in kept:
            plan.load_state(state)


class _Walk:
    """One pass through the steps of a program, each timed on the values that it is given."""

    def __init__(self, executor: Executor, calls: int, around: Around) -> None:
        self.executor, self.calls, self.around = executor, calls, around
        self.device = executor.options.device
        self.found: list[StageTime] = []
        self.whole_us: float | None = None
        self.reading_ns = 0.0
        self.notes: list[str] = []

    def go(self, leaves: list[Any]) -> StageProfile:
        executor = self.executor
        if executor.schedules is not None:
            try:
                return self._scheduled(Schedule.of_copies(executor, leaves), leaves)
            except Unbindable:
                pass  # its calls run one by one, as below
        env: dict[str, Any] = {**executor.constants, **dict(zip(executor.program.inputs, leaves))}
        for step in executor.steps:
            if isinstance(step.source, FallbackStep):
                env[step.source.node.name] = self._torch(step, step.source.node, env)
            else:
                self._group(step, step.source, env)
        if any(isinstance(step.source, FallbackStep) or isinstance(step.plan, StagedPlan) for step in executor.steps):
            self.notes.append("stages launched from Python are timed from Python: about 0.1 us of each is the clock")
            self.reading_ns = self.reading_ns or _clock_ns()
        return StageProfile(tuple(self.found), self.whole_us, self.reading_ns, self.calls, tuple(self.notes))

    def _scheduled(self, schedule: Schedule, leaves: list[Any]) -> StageProfile:
        """The calls of a program as they are bound: groups, calls of torch, and what is copied between them."""
        _, taken = self._timed(IN, partial(schedule.take, leaves))
        self.found.append(_stage(IN, "the arguments copied", "copy", taken))
        for call in schedule.calls:
            if call.step is None or isinstance(call.step.source, FallbackStep):
                _, taken = self._timed(call.name, call.run)
                kind = ("a copy between steps", "copy") if call.step is None else call.step.what
                self.found.append(_stage(call.name, *kind, taken))
            elif isinstance(call.step.plan, StagedPlan):
                self._staged(call.step, call.step.source, call.inputs)
            else:
                self._native(call.step, call.step.source, call.inputs)
        _, taken = self._timed(OUT, schedule.give)
        self.found.append(_stage(OUT, "the results copied", "copy", taken))
        _, taken = self._timed("the whole", partial(schedule, leaves))
        self.whole_us = float(np.median(taken))
        self.reading_ns = _clock_ns()
        self.notes.append("stages launched from Python are timed from Python: about 0.1 us of each is the clock")
        return StageProfile(tuple(self.found), self.whole_us, self.reading_ns, self.calls, tuple(self.notes))

    def _torch(self, step: Step, node: fx.Node, env: dict[str, Any]) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.executor._value(n.name, env))
        result, taken = self._timed(step.name, lambda: run_call(node, args, kwargs))
        self.found.append(_stage(step.name, *step.what, taken))
        return result

    def _group(self, step: Step, source: SubgraphStep, env: dict[str, Any]) -> None:
        tensors = fit_inputs(
            "profile", [env[name] for name in source.reads], source.group.inputs, self.executor.options
        )
        outputs = (self._staged if isinstance(step.plan, StagedPlan) else self._native)(step, source, tensors)
        env.update(zip(source.writes, outputs))

    def _native(self, step: Step, source: SubgraphStep, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        lead = tensors[0].shape[: source.group.inputs[0].lead]
        outputs = tuple(
            torch.empty((*lead, *port.trailing), dtype=getattr(torch, port.value.dtype))
            for port in source.group.outputs
        )
        given, taken = self._nested(tensors, outputs)
        step.plan.profile(given, taken, WARM_CALLS)
        measured = step.plan.profile(given, taken, self.calls)
        if measured is None:
            raise UnsupportedProblem("profile", "tensors the plan does not take", "others", "Please report this model.")
        counts, ns = measured
        us = np.frombuffer(counts, np.int64).reshape(self.calls, -1) * (ns / 1e3)
        rows = lead.numel()
        names = [IN, *(choice.stage.name for choice in step.choices), OUT]
        for index, name in enumerate(names):
            choice = step.choices[index - 1] if 0 < index <= len(step.choices) else None
            parts = step.parts(index - 1, rows) if choice else 1
            self.found.append(_row(name, choice, us[:, index], rows, self.device, parts))
        self.reading_ns = float(np.median(us[:, -1])) * 1e3
        if len(self.executor.steps) == 1:
            self.whole_us = float(np.median(us[:, -2]))
        if step.plan.parts(-1, rows) > 1:
            self.notes.append("threads share the samples of such a batch; the parts are timed on one thread")
        return outputs

    def _nested(self, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
        """As the plan was told that they come."""
        program = self.executor.program
        if self.executor.direct is None:
            return inputs, outputs if len(outputs) > 1 else outputs[0]
        (args, _) = pytree.tree_unflatten(list(inputs), program.in_spec)
        return args, pytree.tree_unflatten(list(outputs), program.out_spec)

    def _staged(self, step: Step, source: SubgraphStep, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        plan: StagedPlan = step.plan
        rows = tensors[0].shape[: source.group.inputs[0].lead].numel()
        env = {port.value.name: t.reshape(rows, *port.value.shape) for port, t in zip(source.group.inputs, tensors)}
        env |= plan.held()
        for choice, (call, inputs, outputs, by_row) in zip(step.choices, plan._steps):
            given = [env[v.name].reshape(-1, v.width) if by_row else env[v.name] for v in inputs]
            results, taken = self._timed(choice.stage.name, partial(call, *given))
            self.found.append(_row(choice.stage.name, choice, taken, rows, self.device, 1))
            env.update((v.name, result.reshape(rows, *v.shape)) for v, result in zip(outputs, results))
        results, taken = self._timed("the whole", partial(plan.call_flat, tensors))
        assert results is not None  # the tensors were fitted
        if not step.choices:  # a plan that is one thing, and has no stages to be timed one by one
            self.found.append(_stage(step.name, "the whole", type(plan).__name__, taken))
        if len(self.executor.steps) == 1:
            self.whole_us = float(np.median(taken))
        return results if isinstance(results, tuple) else (results,)

    def _timed(self, name: str, call: Callable[[], Any]) -> tuple[Any, np.ndarray]:
        """The last result, and us of each call."""
        wait = torch.cuda.synchronize if self.device == "cuda" else _nothing
        for _ in range(min(WARM_CALLS, self.calls)):
            call()
        wait()
        taken = np.empty(self.calls)
        result = None
        for i in range(self.calls):
            with self.around(name):
                start = perf_counter_ns()
                result = call()
                wait()
                taken[i] = perf_counter_ns() - start
        return result, taken / 1e3


def _nothing() -> None:
    return None


def _clock_ns() -> float:
    readings = [-perf_counter_ns() + perf_counter_ns() for _ in range(1001)]
    return float(np.median(readings))


def _stage(name: str, what: str, kernel: str, us: np.ndarray, **more: Any) -> StageTime:
    p99 = float(np.quantile(us, 0.99, method="inverted_cdf"))
    return StageTime(name, what, kernel, float(np.median(us)), p99, **more)


def _row(name: str, choice: Choice | None, us: np.ndarray, rows: int, device: str, parts: int) -> StageTime:
    if choice is None:
        return _stage(name, "the plan's own", "plan", us)
    problem = Problem.of(choice.stage, rows, device)
    cost = operator(choice.stage.op).cost(problem)
    return _stage(name, str(problem), choice.impl.name, us, bytes=cost.bytes, macs=cost.flops // 2, threads=parts)

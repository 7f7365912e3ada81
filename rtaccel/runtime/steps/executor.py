"""Runs the steps of a program: groups through their plans, torch calls as they are."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.nodes import constant_value
from rtaccel.convert.frontend.run_call import run_call
from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.plan.group import Executable, StagedPlan, Subgraph
from rtaccel.runtime.gpu.device import DeviceLayer
from rtaccel.runtime.gpu.graph import DevicePlan, GraphPlan
from rtaccel.runtime.gpu.joined import Edge, joined
from rtaccel.runtime.inputs import check_arguments, fit_inputs
from rtaccel.runtime.memory import seen_as
from rtaccel.runtime.options import Options
from rtaccel.runtime.schedule.nesting import nesting, with_keys
from rtaccel.runtime.schedule.schedule import Schedules
from rtaccel.runtime.steps.step import Step


class Executor:
    """The general way to run a program. `direct` is set where the whole of it is one group that takes the arguments as
    they come; then it can be called without any of this."""

    def __init__(self, program: Program, steps: Sequence[Step], options: Options) -> None:
        self.program, self.steps, self.options = program, tuple(steps), options
        self.direct: Executable | None = None
        self.joined: DevicePlan | None = None
        self._all_native = all(isinstance(step.source, SubgraphStep) for step in self.steps)
        self.bind: Callable[[Any, Any], Callable[[], None] | None] | None = None
        self.constants = {name: tensor.to(options.device) for name, tensor in program.constants.items()}
        self._constant_places = {t.untyped_storage().data_ptr() for t in self.constants.values() if t.numel()}
        if len(self.steps) == 1 and self._is_plain(self.steps[0]):
            self.direct = self.steps[0].plan
            if self.steps[0].native:
                self.bind = self._bind
            elif isinstance(self.direct, DevicePlan):
                self.bind = self.direct.bind
        self.schedules: Schedules | None = None
        if self.direct is None and options.device == "cpu" and options.plan_states is None:
            self.schedules = Schedules(self)

    def _is_plain(self, step: Step) -> bool:
        """Whether the arguments are those of the group, in tensors and tuples; a native plan takes lists and dicts too."""
        source, program = step.source, self.program
        args, kwargs = program.in_spec.children()
        if not isinstance(source, SubgraphStep) or kwargs.num_children:
            return False
        if source.reads != program.inputs or source.writes != program.outputs or program.casts:
            return False
        if not step.native:
            given, returned = nesting(args) or "", nesting(program.out_spec) or ""
            flat = returned == "." if len(source.writes) == 1 else returned.count("(") == 1
            return given.count("(") == 1 and flat
        taken, made = with_keys(args), with_keys(program.out_spec)
        if taken is None or made is None:
            return False
        step.plan.nesting(*taken, *made)
        return True

    def _bind(self, inputs: Any, out: Any) -> Callable[[], None] | None:
        """The native call bound to its tensors; None where they do not fit as they lie."""
        from rtaccel._native import Bound

        try:
            return Bound(self.direct, inputs, out)
        except ValueError:
            return None

    def join(self, layer: DeviceLayer) -> None:
        """One graph of all steps, where each of them only launches: groups, and the user's own kernels."""
        args, kwargs = self.program.in_spec.children()
        given, returned = nesting(args), nesting(self.program.out_spec)
        flat = given is not None and given.count("(") == 1 and returned is not None and returned.count("(") <= 1
        if not flat or kwargs.num_children or not all(step.plan or step.raw_kernel for step in self.steps):
            return
        o = self.options
        kept = tuple(t for step in self.steps if isinstance(step.plan, StagedPlan) for t in step.plan.kept)
        plan = joined(self.program, self._results, Edge(o.batch_size, o.batch, o.device), kept)
        if plan is not None:
            self.direct = self.joined = GraphPlan(plan, layer, o.batch_size)
            self.bind = self.joined.bind

    @property
    def edges(self) -> Subgraph:
        """Of a program with `direct`: the tensors of its callers."""
        if self.joined is not None:
            return self.joined._group
        source = self.steps[0].source
        assert isinstance(source, SubgraphStep)
        return source.group

    @property
    def native_plans(self) -> list[Any]:
        return [step.plan for step in self.steps if step.native]

    @property
    def device_plans(self) -> list[DevicePlan]:
        """Those behind a graph or a persistent kernel."""
        own = [] if self.joined is None else [self.joined]
        return own + [step.plan for step in self.steps if isinstance(step.plan, DevicePlan)]

    def taken_over_by(self, earlier: Executor) -> Executor:
        """The same with the plan object of an earlier executor of the same tensors, which takes what is in this one's."""
        if self.direct is None or not self.steps[0].native:
            return self
        plan = earlier.steps[0].plan
        plan.adopt(self.steps[0].plan)
        return Executor(self.program, [replace(self.steps[0], plan=plan)], self.options)

    def suspend(self) -> None:
        for plan in self.device_plans:
            plan.suspend()

    def close(self) -> None:
        for plan in self.device_plans:
            plan.close()

    @property
    def code_bytes(self) -> int:
        """Of the native core, which all plans share; 0 where nothing here uses it."""
        if not self.native_plans:
            return 0
        from rtaccel._native import code_bytes

        return code_bytes()

    def prefault(self, lock: bool = False) -> int:
        """Bytes of native plans that are resident now. lock: and stay so, or UnsupportedProblem."""
        total = 0
        for plan in self.native_plans:
            try:
                total += plan.prefault()
                if lock:
                    plan.lock()
            except RuntimeError as error:
                raise UnsupportedProblem(
                    "seal" if lock else "prefault",
                    f"{error} (limit of locked memory: {_lock_limit()})",
                    f"{sum(plan.scratch_bytes + plan.packed_bytes for plan in self.native_plans)} bytes in memory",
                    "Raise the limit (ulimit -l, LimitMEMLOCK=), or give the process CAP_IPC_LOCK.",
                ) from error
        return total

    def device_notes(self) -> list[str]:
        """What `explain` says of graphs and persistent kernels, on a device that has them."""
        if self.options.mode == "graph" and not self.device_plans:
            if waits := sorted({op for step in self.steps for op in step.waits}):
                return [
                    f"no CUDA graph: {', '.join(waits)} in PyTorch, which waits for the GPU; kernels are launched one by one"
                ]
            return [
                "no CUDA graph: calls that fall back to PyTorch, or nested arguments; kernels are launched one by one"
            ]
        return [plan.note() for plan in self.device_plans]

    def thread_notes(self, options: Options) -> list[str]:
        """What `explain` says of threads, where more than one may be used."""
        if options.threads == 1:
            return []
        running = max((plan.running_threads for plan in self.native_plans), default=1)
        text = f"at most {options.threads} threads, {running} standing by"
        if any(plan.parts(-1, options.batch_size) > 1 for plan in self.native_plans):
            text += "; a batch of this size is shared by samples"
        elif running == 1:
            text += ": no call is long enough to share, or this is a forked process (prefault() makes new ones)"
        return [text]

    def __call__(self, leaves: Sequence[Any]) -> list[Any]:
        check_arguments("call", leaves, self.program.arguments, self.options)
        found = self.schedules(leaves) if self.schedules is not None else None
        if found is not None:
            return found
        return self._results(leaves)

    def _results(self, leaves: Sequence[Any]) -> list[Any]:
        """Step by step."""
        if not self._all_native:  # a call that falls back to PyTorch was exported for tensors that lie densely
            leaves = [leaf.contiguous() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        env: dict[str, Any] = dict(self.constants)
        env.update(zip(self.program.inputs, leaves))
        with torch.no_grad():
            for step in self.steps:
                if isinstance(step.source, FallbackStep):
                    node = step.source.node
                    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self._value(n.name, env))
                    env[node.name] = run_call(node, args, kwargs)
                else:
                    self._run_group(step, step.source, env)
        casts = self.program.casts
        # A stored value that is returned has the shape of what is returned, whatever torch calls see in it.
        return [
            self._fresh(self._value(o, env) if o in casts or o not in env else env[o], leaves)
            if isinstance(o, str)
            else constant_value(o)
            for o in self.program.outputs
        ]

    def _fresh(self, result: Any, leaves: Sequence[Any]) -> Any:
        """A result in memory of its own: a constant, an argument, or a view of one, is copied."""
        if not isinstance(result, Tensor):
            return result
        place = result.untyped_storage().data_ptr()
        given = any(isinstance(t, Tensor) and t.untyped_storage().data_ptr() == place for t in leaves)
        return result.detach().clone() if given or place in self._constant_places else result

    def _value(self, name: str, env: dict[str, Any]) -> Any:
        """A value by its name in the graph: computed, or a stored one seen in another way."""
        view = self.program.views.get(name)
        if view is None:
            return env[name]
        flat, shape, backwards = seen_as(view, env[view.base].contiguous(), self.program.batched)
        result = (flat.flip(backwards) if backwards else flat).reshape(shape)
        dtype = self.program.casts.get(name)
        return result if dtype is None else result.to(dtype)

    def _run_group(self, step: Step, source: SubgraphStep, env: dict[str, Any]) -> None:
        inputs = tuple(env[name] for name in source.reads)
        results = step.plan.call_flat(inputs)
        if results is None:
            fitted = fit_inputs("call", inputs, source.group.inputs, self.options)
            results = step.plan.call_flat(fitted)
            if results is None:
                raise UnsupportedProblem(
                    "call",
                    f"{[tuple(t.shape) for t in fitted]}",
                    "tensors this plan takes",
                    "Please report this input.",
                )
        env.update(zip(source.writes, results if isinstance(results, tuple) else (results,)))


def _lock_limit() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "none" if soft == resource.RLIM_INFINITY else f"{soft} B"

"""What a compiled model says of itself: its bytes, its stages with the kernel of each, which of them are native."""

from __future__ import annotations

from typing import Any

from rtaccel.convert.passes.program import FallbackStep, Program, SubgraphStep
from rtaccel.core.batch import BatchRange
from rtaccel.plan.columns import seen_in_place
from rtaccel.plan.explain import Line, line, table
from rtaccel.runtime.gpu.graph import DevicePlan
from rtaccel.runtime.options import Options
from rtaccel.runtime.state.buffers import State
from rtaccel.runtime.steps.executor import Executor


class Described:
    """The part of a compiled model that only looks."""

    _program: Program
    _executor: Executor
    _options: Options
    _state: State
    _direct: Any
    _verified: str
    _notes: tuple[str, ...]
    _sealed: bool
    _locked: bool

    @property
    def weight_bytes(self) -> int:
        """Bytes of the logical weights and scales. What several calls of a layer share counts once."""
        values = [entry.value for entry in self._state.entries.values()]
        stored = {(v.data_ptr(), v.dtype, v.shape, v.stride(), v.device): v.numel() * v.element_size() for v in values}
        return sum(stored.values())

    @property
    def plan_bytes(self) -> tuple[int, int]:
        """Bytes of packed weights, and of scratch and states, that the native plans hold."""
        plans = [s.plan for s in self._executor.steps if s.plan is not None]
        return sum(p.packed_bytes for p in plans), sum(p.scratch_bytes for p in plans)

    @property
    def peak_bytes(self) -> int:
        """Most bytes that the native plans hold at any time: packed weights, scratch and states. Calls allocate nothing beyond
        their results; PyTorch fallbacks do."""
        return sum(self.plan_bytes)

    @property
    def state_bytes(self) -> int:
        """Bytes of what the plans keep from call to call."""
        return sum(step.plan.state_bytes for step in self._executor.steps if step.plan is not None)

    def explain_lines(self, measure: bool = True) -> list[Line]:
        """The rows of `explain()`, one for each stage."""
        lines: list[Line] = []
        schedules = self._executor.schedules
        torch_us = schedules.torch_us() if measure and schedules is not None else {}
        for step in self._executor.steps:
            if isinstance(step.plan, DevicePlan) and (whole := step.plan.line()) is not None:
                lines.append(whole)
            elif step.choices:
                source = step.source
                results = {p.value.name for p in source.group.outputs} if isinstance(source, SubgraphStep) else set()
                seen = seen_in_place(step.choices, results) if step.native else set()
                lines.extend(
                    line(c, measure, step.parts(i, self._options.batch_size), c.stage.outputs[0].name in seen)
                    for i, c in enumerate(step.choices)
                )
            else:
                us = torch_us.get(step.source.node.name) if isinstance(step.source, FallbackStep) else None
                lines.append(Line(step.name, *step.what, None, None, (step.reason,), us))
        return lines

    def explain(self, verbose: bool = False, measure: bool = True) -> str:
        """Every stage: the kernel chosen, the bytes it must move, what it does, its time alone; why a call falls back to PyTorch.

        verbose=True adds the kernels that were rejected and why.
        measure=False leaves the times out. A stage alone has its inputs in the cache and waits for no other; `rtaccel profile`
        times the stages where they stand.
        """
        o, executor = self._options, self._executor
        packed, scratch = self.plan_bytes
        kind = "one call" if self._direct is not None else f"{len(executor.steps)} steps"
        own, count = self.native
        head = [
            f"{o.title}: {kind} on {o.device}, {own} of {count} stages native"
            + (f", backend {o.backend}" if o.backend else "")
            + f", planned for {o.batch_size} rows",
            f"weights {self.weight_bytes} B, packed {packed} B, scratch {scratch} B with states of {self.state_bytes} B"
            + f", code of all kernels {executor.code_bytes} B",
            self._takes() + (", sealed" if self._sealed else "") + (", locked in memory" if self._locked else ""),
            *executor.thread_notes(o),
            *executor.device_notes(),
            *(f"note: {note}" for note in (*self._program.notes, self._verified, *self._notes) if note),
        ]
        return "\n".join([*head, "", table(self.explain_lines(measure), verbose)])

    def _takes(self) -> str:
        """What batch a call may have, and what that assumes of the model."""
        o = self._options
        if o.states is not None:
            n = o.states.samples
            return "one stream, one time step a call" if n == 1 else f"{n} streams, one time step of each a call"
        because = f" ({'; '.join(o.batch.why)})" if o.batch.why else ""
        return f"batch size: {o.batch}{because}"

    @property
    def batch(self) -> BatchRange:
        """The sizes of the first dimension that a call may have."""
        return self._options.batch

    @property
    def on_cpu(self) -> bool:
        return self._options.device == "cpu"

    @property
    def native(self) -> tuple[int, int]:
        """(native stages, all stages: the native ones and the calls that fall back to PyTorch)."""
        steps = self._executor.steps
        own = sum(max(1, len(step.choices)) for step in steps if step.plan is not None or step.raw_kernel)
        return own, own + sum(step.plan is None and not step.raw_kernel for step in steps)

    def extra_repr(self) -> str:
        own, count = self.native
        return f"{self._options.title}, {own} of {count} stages native, {self.weight_bytes} bytes of weights"

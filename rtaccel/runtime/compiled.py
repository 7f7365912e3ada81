"""A compiled model: one native call, or a few with torch's own between where nothing else computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks as _any_hooks
from torch.nn.modules.module import _global_forward_pre_hooks as _any_pre_hooks
from torch.utils import _pytree as pytree

from rtaccel.backends import _interop as interop
from rtaccel.convert.program import GroupStep, Program
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.plan.explain import Line, line, table
from rtaccel.runtime import state
from rtaccel.runtime.cuda_graph import DevicePlan
from rtaccel.runtime.entry import native_entry
from rtaccel.runtime.execute import Executor, build_executor
from rtaccel.runtime.inputs import bind_run, check_out, copy_out, dense, fit_inputs
from rtaccel.runtime.options import Options


class CompiledModel(nn.Module):
    """A compiled model: the same call as the model it came from, fresh tensors out, inference only.

    `fast(*inputs)` allocates its results. `fast.run(*inputs, out=y)` writes into y and allocates nothing.
    `fast.bind(*inputs, out=y)` checks the tensors once and returns a call without arguments. All three take CuPy arrays too
    where the model is on a GPU, without a copy; a bound call then runs on torch's current stream.

    A row (of the batch) that holds a NaN or an infinity gives NaN in every output of that row where the
    model is int8, and what float arithmetic gives where it is float32; other rows are untouched.
    One instance runs in one thread at a time: a call holds the GIL from beginning to end.
    """

    def __init__(self, program: Program, options: Options, argument_names: tuple[str, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(state.StageNumbers(stage) for stage in program.stages)
        self.constants = state.Constants(program.constants)
        self.eval()
        self._options = options
        self._argument_names = argument_names
        self._sealed = self._locked = False
        self._verified = "not verified: compiled with verify=False"
        self._install(program)

    def _install(self, program: Program) -> None:
        """Plans the program and puts it in place in one step, so that a failure leaves the old one working."""
        executor = build_executor(program, self._options)
        if self._sealed:
            executor.prefault(self._locked)
            for plan in executor.device_plans:
                plan.seal()
        earlier: Executor | None = getattr(self, "_executor", None)
        self._program: Program = program
        self._executor: Executor = executor
        self._direct = executor.direct
        if executor.direct is not None and executor.steps[0].native:
            executor.steps[0].plan.guard((self._forward_pre_hooks, self._forward_hooks, _any_pre_hooks, _any_hooks))
        if earlier is not None:
            earlier.close()

    def note_verified(self, note: str) -> CompiledModel:
        """Keeps for `explain` what a comparison with the model showed."""
        self._verified = note
        return self

    def close(self) -> None:
        """Gives back what the model holds of a GPU; in mode "persistent" its kernel ends, and later calls raise."""
        self._executor.close()

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """nn.Module's own way through its hooks costs 0.4 us, a good part of a small network; it is taken where it matters.
        A native plan with tensors that fit as they are never comes here (native_entry.cc)."""
        direct = self._direct
        if direct is not None and not (
            named or self._forward_pre_hooks or self._forward_hooks or _any_pre_hooks or _any_hooks
        ):
            result = direct.call(inputs)
            if result is not None:
                return result
        return super().__call__(*inputs, **named)

    __call__ = native_entry("call", __call__)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if named:
            inputs = self._in_order(inputs, named)
        direct = self._direct
        if direct is not None:
            result = direct.call(inputs)
            if result is not None:
                return result
        return self._slow(inputs)

    def _in_order(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments by the names of the model's own forward, in its order."""
        wanted = self._argument_names[len(inputs) :]
        if set(named) != set(wanted):
            raise ShapeError(
                "call",
                f"{len(inputs)} arguments by position and {sorted(named)} by name",
                f"the example's {len(self._argument_names)}, named {', '.join(self._argument_names)}",
                "Call it as the model that was compiled.",
            )
        return (*inputs, *(named[name] for name in wanted))

    def _slow(self, inputs: tuple[Any, ...]) -> Any:
        """The general path: nested arguments, torch steps, tensors to be copied or to be complained about, CuPy's arrays."""
        cupy = interop.cupy_of(inputs)
        if cupy is not None:
            return interop.call(cupy, self, inputs)
        leaves, spec = pytree.tree_flatten((inputs, {}))
        if spec != self._program.in_spec:
            raise ShapeError(
                "call",
                f"inputs nested as {spec}",
                f"{self._program.in_spec}",
                "Call it as the model that was compiled.",
            )
        results = self._executor(leaves)
        return pytree.tree_unflatten(results, self._program.out_spec)

    def run(self, *inputs: Any, out: Any) -> Any:
        """Computes into `out` (a tensor, or a tuple in the order of the outputs) and returns it.

        With contiguous float32 tensors of the right shape nothing is allocated. Others are handled rightly, by a copy,
        unless the model is sealed. Raises ShapeError, with `out` untouched, for an `out` that does not fit.
        """
        direct = self._direct
        if direct is not None and direct.run(inputs, out):
            return out
        cupy = interop.cupy_of(inputs, out)
        if cupy is not None:
            with interop.on_stream_of(cupy):
                self.run(*interop.as_tensors(cupy, inputs), out=interop.as_tensors(cupy, out))
            return out
        if self._sealed:
            raise ShapeError(
                "run",
                "tensors that would need a copy, or do not fit, on a sealed model",
                "contiguous, aligned tensors of the model's dtype and shape, out not overlapping an input",
                "Pass such tensors, or run once before seal() to see the exact mistake.",
            )
        if direct is None:
            copy_out(pytree.tree_leaves(self._slow(inputs)), out)
        else:
            fitted, outs = self._fit("run", inputs, out)
            copy_out(pytree.tree_leaves(direct.call_flat(fitted)), outs)
        return out

    run = native_entry("run", run)

    def _fit(self, op: str, inputs: tuple[Any, ...], out: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Checked inputs, copied where they must be, and checked outputs, of a model that is one group."""
        source, device = self._executor.steps[0].source, self._options.device
        assert isinstance(source, GroupStep)
        leaves, spec = pytree.tree_flatten((inputs, {}))
        if spec != self._program.in_spec:
            raise ShapeError(op, f"inputs nested as {spec}", f"{self._program.in_spec}", "Nest them as the model does.")
        fitted = fit_inputs(op, leaves, source.group.inputs, self._options)
        lead = fitted[0].shape[: source.group.inputs[0].lead]
        outs = pytree.tree_leaves(out) if isinstance(out, (tuple, list)) else out
        return fitted, check_out(op, outs, source.group.outputs, lead, device)

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        """A call without arguments that reads `inputs` and writes `out` where they lie, for loops that reuse their buffers.

        The tensors are checked and kept alive here, once. Do not resize them afterwards.
        Raises ShapeError where a tensor does not fit as it lies (a copy would not be the caller's memory).
        """
        cupy = interop.cupy_of(inputs, out)
        if cupy is not None:
            inputs, out = interop.as_tensors(cupy, inputs), interop.as_tensors(cupy, out)
        binder = self._executor.bind
        if binder is None:
            return bind_run(self.run, inputs, out)
        bound = binder(inputs, out)
        if bound is not None:
            return bound
        _, outs = self._fit("bind", inputs, out)
        bad = [i for i, t in enumerate((*pytree.tree_leaves(inputs), *outs)) if dense(t).data_ptr() != t.data_ptr()]
        what = (
            f"tensors {bad} that are strided or misaligned" if bad else "an out that overlaps an input or another out"
        )
        raise ShapeError(
            "bind", what, "separate contiguous memory, to be read and written in place", "Allocate buffers."
        )

    def seal(self, lock: bool = False) -> CompiledModel:
        """From here on `run` and bound calls raise instead of allocating, compiling or planning. Calls `prefault`.

        lock: keep the plan's memory resident for good (mlock). `fast(*inputs)` still gives fresh tensors; that is what it
        is for. Raises UnsupportedProblem, with the model as it was, where a stage allocates by its nature (a call that
        stayed torch's, kernels launched from Python), or where the system does not let this process lock so much.
        """
        if self._direct is None or self._executor.bind is None:
            loud = [s.name for s in self._executor.steps if s.allocates]
            raise UnsupportedProblem(
                "seal", f"stages that allocate when they run: {', '.join(loud)}", "native stages only", "See explain()."
            )
        self._executor.prefault(lock)
        for plan in self._executor.device_plans:
            plan.seal()
        self._sealed, self._locked = True, self._locked or lock
        return self

    def prefault(self) -> int:
        """Makes packed weights, scratch and states resident, so that no call faults on a page of them; gives their bytes.

        A plan is resident when it was made; fork() and swapping can change that. After fork() the child has one thread
        where there were several, and makes new ones here. Threads take the scheduling policy and priority of the caller.
        """
        return self._executor.prefault()

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> int:
        """Bytes of the logical weights and scales: what a checkpoint of this model holds."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    @property
    def plan_bytes(self) -> tuple[int, int]:
        """Bytes of packed weights, and of scratch and states, that the native plans hold."""
        plans = [s.plan for s in self._executor.steps if s.plan is not None]
        return sum(p.packed_bytes for p in plans), sum(p.scratch_bytes for p in plans)

    @property
    def state_bytes(self) -> int:
        """Bytes of what the native plans keep from call to call."""
        return sum(plan.state_bytes for plan in self._executor.native_plans)

    def explain_lines(self, measure: bool = True) -> list[Line]:
        lines: list[Line] = []
        for step in self._executor.steps:
            if isinstance(step.plan, DevicePlan) and (whole := step.plan.line()) is not None:
                lines.append(whole)
            elif step.choices:
                lines.extend(line(c, measure, step.parts(i, self._options.rows)) for i, c in enumerate(step.choices))
            else:
                lines.append(Line(step.name, "an ordinary torch call", "torch", None, None, (step.reason,)))
        return lines

    def explain(self, verbose: bool = True, measure: bool = True) -> str:
        """Every stage: the kernel chosen, those rejected and why, the bytes it must move, what it does, its time alone.

        measure=False leaves the times out. A stage alone has its inputs in the cache and waits for no other; `rtaccel profile`
        times the stages where they stand.
        """
        o, executor = self._options, self._executor
        packed, scratch = self.plan_bytes
        kind = "one call" if self._direct is not None else f"{len(executor.steps)} steps"
        head = [
            f"{o.title}: {kind} on {o.device}"
            + (f", backend {o.backend}" if o.backend else "")
            + f", planned for {o.rows} rows",
            f"weights {self.weight_bytes} B, packed {packed} B, scratch {scratch} B with states of {self.state_bytes} B"
            + f", code of all kernels {executor.code_bytes} B",
            self._takes() + (", sealed" if self._sealed else "") + (", locked in memory" if self._locked else ""),
            *executor.thread_notes(o),
            *executor.device_notes(),
            *(f"note: {note}" for note in (*self._program.notes, self._verified) if note),
        ]
        return "\n".join([*head, "", table(self.explain_lines(measure), verbose)])

    def _takes(self) -> str:
        """What batch a call may have, and what that assumes of the model."""
        o = self._options
        if o.states is not None:
            n = o.states.samples
            return "one stream, one moment a call" if n == 1 else f"{n} streams, one moment of each a call"
        because = f" ({'; '.join(o.batch.why)})" if o.batch.why else ""
        return f"batch size: {o.batch}{because}"

    def extra_repr(self) -> str:
        return f"{self._options.title}, {len(self._executor.steps)} steps, {self.weight_bytes} bytes of weights"

    # -- state -----------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module's; every tensor is checked first, and the plan is packed again afterwards."""
        state.check(dict(self.named_buffers()), state_dict)
        state.check_sparse(self._program, self.stages, state_dict)
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._install(state.current(self._program, self.stages))
        return result

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        probe = fn(torch.zeros(1, dtype=torch.float32))
        if probe.dtype != torch.float32 or probe.device.type != self._options.device:
            raise UnsupportedProblem(
                "to",
                f"{probe.dtype} on {probe.device}",
                "a compiled model where it is",
                "Compile the model anew for that.",
            )
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        return CompiledModel(state.current(self._program, self.stages), self._options, self._argument_names)

    def __reduce__(self) -> Any:
        raise UnsupportedProblem(
            "pickle", "a compiled model", "its state_dict()", "Save that, compile the model again and load it."
        )

"""A compiled model: one native call, or a few with torch's own between where nothing else computes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _global_forward_hooks as _any_hooks
from torch.nn.modules.module import _global_forward_pre_hooks as _any_pre_hooks
from torch.utils import _pytree as pytree

from rtaccel.backends import _interop as interop
from rtaccel.convert.passes.program import Program
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.runtime.entry import native_entry
from rtaccel.runtime.foreign import as_tensors, holds_foreign
from rtaccel.runtime.inputs import check_out, copy_out, dense, fit_inputs, nesting_error
from rtaccel.runtime.inspection.described import Described
from rtaccel.runtime.options import Options
from rtaccel.runtime.schedule.bound_calls import BoundCalls, flat_results
from rtaccel.runtime.schedule.nesting import in_order, outs_in_order
from rtaccel.runtime.state.buffers import State
from rtaccel.runtime.state.loading import Loading
from rtaccel.runtime.steps.executor import Executor
from rtaccel.runtime.steps.planned import build_executor
from rtaccel.runtime.weight_swap import Swappable


class CompiledModel(Swappable, Described, Loading):
    """A compiled model: the same call as the model it came from, fresh tensors out, inference only.

    `fast(*inputs)` allocates its results. `fast.run(*inputs, out=y)` writes into y and allocates nothing.
    `fast.bind(*inputs, out=y)` checks the tensors once and returns a call without arguments. All three take CuPy arrays too
    where the model is on a GPU, without a copy; a bound call then runs on torch's current stream.

    Tensors have the dtypes and shapes of the example, float32 [batch, ...] or int64 for indices, on the model's device; the first
    dimension may differ where the batch is dynamic. A call raises ShapeError for a tensor or argument that does not fit, and
    FormatError for an index outside an embedding; nothing is cast.

    A row (of the batch) that holds a NaN or an infinity gives NaN in every output of that row where the
    model is int8, and what float arithmetic gives where it is float32; other rows are untouched.
    One instance runs in one thread at a time: a call holds the GIL from beginning to end.
    """

    def __init__(self, program: Program, options: Options, argument_names: tuple[str, ...]) -> None:
        super().__init__()
        self.eval()
        self._options = options
        self._argument_names = argument_names
        self._sealed = self._locked = False
        self._verified = "not verified: compiled with verify=False"
        self._notes: tuple[str, ...] = ()
        state = State(program)
        self._install(state.program(program), state)

    def _install(self, program: Program, state: State, past: bytes | None = None) -> None:
        """Plans the program and puts it in place in one step, so that a failure leaves the old one working.

        past: of the streams, where it is not to start anew.
        """
        earlier: Executor | None = getattr(self, "_executor", None)
        if earlier is not None:
            earlier.suspend()  # a persistent kernel makes room for the next one
        executor = build_executor(program, self._options)
        if past is not None:
            executor.steps[0].plan.load_state(past)
        if self._sealed:
            executor.prefault(self._locked)
            for plan in executor.device_plans:
                plan.seal()
        if earlier is not None and earlier.direct is not None and earlier.steps[0].native:
            executor = executor.taken_over_by(earlier)  # bound calls hold the plan, and go on with what is in it now
        self._program: Program = program
        self._state: State = state
        self._executor: Executor = executor
        self._direct = executor.direct
        self._flat = flat_results(program)
        self._modules.update(state.tree())
        if executor.direct is not None and executor.steps[0].native:
            executor.steps[0].plan.guard((self._forward_pre_hooks, self._forward_hooks, _any_pre_hooks, _any_hooks))
        if earlier is not None:
            earlier.close()

    def note_verified(self, note: str) -> CompiledModel:
        """Keeps for `explain` what a comparison with the model showed."""
        self._verified = note
        return self

    def note(self, text: str) -> None:
        """Keeps a sentence for `explain`."""
        self._notes = (*self._notes, text)

    def suspend(self) -> None:
        """In mode "persistent" the kernel ends, and other work may wait for the device or have its multiprocessors. Its code and
        weights stay on the GPU; the next call starts it again. Other models hold nothing of that kind."""
        self._executor.suspend()

    def close(self) -> None:
        """Gives back what the model holds of a GPU; in mode "persistent" its kernel ends, and later calls raise."""
        self._executor.close()

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """nn.Module's own way through its hooks costs 0.4 us, a good part of a small network; it is taken where it matters.
        A native plan with tensors that fit as they are never comes here (bindings/entry.cc)."""
        if not (named or self._forward_pre_hooks or self._forward_hooks or _any_pre_hooks or _any_hooks):
            result = self._quick(inputs)
            if result is not None:
                return result
        return super().__call__(*inputs, **named)

    __call__ = native_entry("call", __call__)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if named:
            inputs = self._in_order(inputs, named)
        result = self._quick(inputs)
        return result if result is not None else self._slow(inputs)

    def _quick(self, inputs: tuple[Any, ...]) -> Any:
        """The result where the arguments are ordinary; None where they are to be looked at."""
        if self._direct is not None:
            return self._direct.call(inputs)
        schedules, flat = self._executor.schedules, self._flat
        if schedules is None or flat is None or (results := schedules.quick(inputs)) is None:
            return None
        if not flat:
            return pytree.tree_unflatten(results, self._program.out_spec)
        return results[0] if flat == 1 else tuple(results)

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
        """The general path: nested arguments, torch steps, tensors to be copied or to be complained about, other arrays."""
        cupy = interop.cupy_of(inputs)
        if cupy is not None:
            return interop.call(cupy, self, inputs)
        if holds_foreign(inputs):
            return self(*as_tensors("call", inputs))
        results = self._executor(self._leaves("call", inputs))
        return pytree.tree_unflatten(results, self._program.out_spec)

    def run(self, *inputs: Any, out: Any) -> Any:
        """Computes into `out` (a tensor, or a tuple in the order of the outputs) and returns it.

        inputs: as those of the example, float32 [batch, ...] or int64 indices.
        out: float32 of the shape of each result, [batch, ...].

        With contiguous float32 tensors of the right shape nothing is allocated. Others are handled rightly, by a copy,
        unless the model is sealed. Raises ShapeError, with `out` untouched, for an `out` that does not fit.
        """
        direct = self._direct
        if direct is not None and direct.run(inputs, out):
            return out
        schedules, flat = self._executor.schedules, self._flat
        if schedules is not None and flat and schedules.write(inputs, (out,) if flat == 1 else out):
            return out
        cupy = interop.cupy_of(inputs, out)
        if cupy is not None:
            with interop.on_stream_of(cupy):
                self.run(*interop.as_tensors(cupy, inputs), out=interop.as_tensors(cupy, out))
            return out
        if holds_foreign(inputs, out):
            self.run(*as_tensors("run", inputs), out=as_tensors("run", out, written=True))
            return out
        if self._sealed:
            raise ShapeError(
                "run",
                "tensors that would need a copy, or do not fit, on a sealed model",
                "contiguous, aligned tensors of the model's dtype and shape, out not overlapping an input",
                "Pass such tensors, or run once before seal() to see the exact mistake.",
            )
        if direct is None:
            outs = outs_in_order("run", out, self._program.out_spec)
            copy_out(self._executor(self._leaves("run", inputs)), outs)
        else:
            fitted, targets = self._fit("run", inputs, out)
            copy_out(pytree.tree_leaves(direct.call_flat(fitted)), targets)
        return out

    run = native_entry("run", run)

    def _fit(self, op: str, inputs: tuple[Any, ...], out: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Checked inputs, copied where they must be, and checked outputs, of a model that is one group."""
        edges, device = self._executor.edges, self._options.place
        fitted = fit_inputs(op, self._leaves(op, inputs), edges.inputs, self._options)
        lead = fitted[0].shape[: edges.inputs[0].lead]
        outs = outs_in_order(op, out, self._program.out_spec)
        return fitted, check_out(op, outs, edges.outputs, lead, device)

    def _leaves(self, op: str, inputs: tuple[Any, ...]) -> list[Any]:
        """The tensors among the arguments, in the order of the plan. Raises ShapeError where they are nested otherwise."""
        found = in_order(inputs, self._program.in_spec.children()[0])
        if found is None:
            raise nesting_error(op, inputs, self._program.in_spec)
        return found

    def bind(self, *inputs: Any, out: Any) -> Callable[[], None]:
        """A call without arguments that reads `inputs` and writes `out` in place, for loops that reuse their buffers.

        inputs: as those of the example, float32 [batch, ...] or int64 indices, contiguous.
        out: float32 of the shape of each result, [batch, ...], contiguous, in memory of its own.

        The tensors are checked here, once, and their memory is held: torch refuses to resize it from then on. A tensor that gets
        other memory (`x.data = ...`) is no longer what is read; bind again.
        Raises ShapeError where a tensor does not fit without a copy (which would not be the caller's memory).
        """
        cupy = interop.cupy_of(inputs, out)
        if cupy is not None:
            inputs, out = interop.as_tensors(cupy, inputs), interop.as_tensors(cupy, out)
        if holds_foreign(inputs, out):
            inputs, out = as_tensors("bind", inputs), as_tensors("bind", out, written=True)
        binder = self._executor.bind
        if binder is None:
            self.run(*inputs, out=out)  # says what is wrong with the tensors
            given, outs = self._leaves("bind", inputs), outs_in_order("bind", out, self._program.out_spec)
            return BoundCalls(lambda: self._executor, partial(self.run, *inputs, out=out), given, outs)
        bound = binder(inputs, out)
        if bound is not None:
            return bound
        _, targets = self._fit("bind", inputs, out)
        bad = [i for i, t in enumerate((*pytree.tree_leaves(inputs), *targets)) if dense(t).data_ptr() != t.data_ptr()]
        what = (
            f"tensors {bad} that are strided or misaligned" if bad else "an out that overlaps an input or another out"
        )
        raise ShapeError(
            "bind", what, "separate contiguous memory, to be read and written in place", "Allocate buffers."
        )

    def seal(self, lock: bool = False) -> CompiledModel:
        """From here on `run` and bound calls raise instead of allocating, compiling or planning. Calls `prefault`.

        lock: keep the plan's memory resident for good (mlock).

        `fast(*inputs)` still gives fresh tensors; that is what it is for. Raises UnsupportedProblem, with the model as it
        was, where a stage allocates by its nature (a PyTorch fallback, kernels launched from Python), or where the system
        does not let this process lock so much.
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

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        probe = fn(torch.zeros(1, dtype=torch.float32, device=self._options.device))
        if probe.dtype != torch.float32 or probe.device.type != self._options.device:
            raise UnsupportedProblem(
                "to",
                f"{probe.dtype} on {probe.device}",
                "a compiled model where it is",
                "Compile the model anew for that.",
            )
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        made = type(self)(self._program, self._options, self._argument_names)
        made._verified, made._notes = self._verified, self._notes
        return made

    def __reduce__(self) -> Any:
        expected = "a file of rt.save, or its state_dict()"
        raise UnsupportedProblem(
            "pickle", "a compiled model", expected, "The other process takes the file with rt.load."
        )

"""`stream`: a model over windows, run one time step at a time with its past kept inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.backends.cuda_streams import current_index
from rtaccel.convert.frontend.exported.example import check_example
from rtaccel.convert.frontend.graph.small import SMALL
from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.convert.frontend.tracing.outside_state import outside_untouched
from rtaccel.convert.passes.program import Program
from rtaccel.convert.streaming.window import LENGTHS
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.core.process.errors_of import errors_of
from rtaccel.core.process.one_at_a_time import one_at_a_time
from rtaccel.core.scheme import SchemeLike, SchemeMap
from rtaccel.nn.check import describe, is_freed
from rtaccel.nn.qat.layers import FakeQuant
from rtaccel.runtime.build import SWAPPED_TOLERANCE
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.compiler import check_options
from rtaccel.runtime.entry import native_entry
from rtaccel.runtime.foreign import as_tensors
from rtaccel.runtime.options import Options, check_threads
from rtaccel.runtime.state.buffers import STRUCTURE, State
from rtaccel.runtime.streaming.chunks import LAYOUTS, SAMPLES, check_layout, stream_of_chunks, words_of
from rtaccel.runtime.streaming.front import Front, stream_with_front
from rtaccel.runtime.streaming.program import default_mode, stream_program
from rtaccel.runtime.streaming.verify_stream import NOT_VERIFIED, TOLERANCE, check_stream_state, verify_stream


class StreamModel(CompiledModel):
    """A streamed model: `step(x_t)` takes one time step of every stream and gives the newest output.

    x_t float32 or whole numbers [streams, features], as the example was, or int64 [streams] for indices; the result has what the
    model gives, [streams, outputs]. Raises ShapeError for a tensor that does not fit.

    The result equals the last output of the model over all time steps since the reset, with zeros before them. A new stream
    starts as after `reset()`. `run(x_t, out=)` and `bind(x_t, out=)` are those of a compiled model; each call is one time
    step. The streams of a batch are independent: a NaN in one gives NaN in its outputs for as long as the model
    would feel it, until a reset of that stream where it is recurrent.
    """

    def step(self, *inputs: Tensor, streams: Sequence[int] | Tensor | None = None, out: Any = None) -> Any:
        """One time step of every stream: [streams, features] in the example's dtype (int64 [streams] for indices) to fresh
        [streams, outputs].

        streams: numbers of the streams that make it, in any order and none twice, int64 [n] or a list; the inputs then have n
            rows, and the other streams stand still.
        out: [n, outputs] to write into, in the dtype of the result.

        Raises ShapeError for a tensor that does not fit and for a stream that there is not; then no stream has moved.
        """
        if streams is None:
            return self(*inputs) if out is None else self.run(*inputs, out=out)
        return self._step_some(inputs, streams, out)

    step = native_entry("call", step)

    def _step_some(self, inputs: tuple[Any, ...], streams: Sequence[int] | Tensor, out: Any) -> Any:
        if not self.streams:
            raise ShapeError(
                "step", "streams= for a model that keeps no states", "a call without it",
                "Call step with the rows that you want: each is independent of the others.",
            )  # fmt: skip
        plan = self._plan()
        if not isinstance(streams, Tensor):
            streams = torch.tensor(streams, device="cpu") if len(streams) else torch.empty(0, dtype=torch.int64)
        try:
            if out is not None:
                result = out if plan.run_some(inputs, out, streams) else None
            else:
                result = plan.call_some(inputs, streams)
        except ValueError as error:
            if isinstance(error, RtaccelError):
                raise
            raise ShapeError(
                "step", f"streams with {error}", f"numbers in 0..{self.streams - 1}, none twice", "No stream has moved."
            ) from None
        if result is not None:
            return result
        if streams.dtype != torch.int64 or streams.dim() != 1 or not streams.is_contiguous():
            raise ShapeError("step", f"streams {describe(streams)}", "int64 [n], contiguous", "Convert it.")
        got = ", ".join(describe(x) for x in (*inputs, *(() if out is None else (out,))))
        raise ShapeError(
            "step", f"{got} for {len(streams)} streams", "contiguous tensors with a row for each", "Match the rows."
        )

    def save_stream(self, stream: int) -> bytes:
        """What one stream remembers, to go on with it in another place or on another machine. Raises ShapeError for a stream that
        does not exist."""
        self._exists("save_stream", stream)
        return bytes(self._plan().save_stream(stream))

    def load_stream(self, stream: int, state: bytes) -> None:
        """Stream number `stream` goes on from what `save_stream` of the same model gave; the others are as they were. Raises
        FormatError, with nothing changed, for other bytes."""
        self._exists("load_stream", stream)
        try:
            self._plan().load_stream(stream, bytes(state))
        except ValueError as error:
            raise FormatError(
                "load_stream", f"{len(state)} bytes: {error}", "those of save_stream", "Save it again."
            ) from None

    def _exists(self, op: str, stream: Any) -> None:
        if isinstance(stream, bool) or not isinstance(stream, int) or not 0 <= stream < self.streams:
            some = f"a number in 0..{self.streams - 1}" if self.streams else "none: the model keeps no past of streams"
            raise ShapeError(op, f"stream {stream!r}", some, "Name one of this batch.")

    @property
    def _memory(self) -> int:
        """For how many steps a NaN lives on in a state, -1 for ever."""
        return self._options.states.memory if self._options.states else 0

    @property
    def streams(self) -> int:
        """Number of streams, that of the example."""
        return self._options.states.samples if self._options.states else 0

    def reset(self, streams: int | Iterable[int] | None = None) -> None:
        """All streams, or those given, start anew: their past is zeros. Raises ShapeError for a stream that does not exist."""
        count = self.streams
        several = isinstance(streams, Iterable) and not isinstance(streams, (str, bytes))
        chosen: list[Any] = list(range(count)) if streams is None else list(streams) if several else [streams]  # type: ignore[arg-type]
        bad = [s for s in chosen if isinstance(s, bool) or not isinstance(s, int) or not 0 <= s < count]
        if bad:
            some = f"numbers in 0..{count - 1}" if count else "none: the model keeps no past of streams"
            raise ShapeError("reset", f"streams {bad}", some, "Name streams of this batch.")
        for s in chosen:
            self._plan().reset(s, 1)

    def _plan(self) -> Any:
        return self._executor.steps[0].plan

    # The past of the streams is part of the state dict, as plain bytes: a stream can go on elsewhere.

    def get_extra_state(self) -> Tensor:
        """The past of all streams, uint8 [state_bytes]; `state_dict()` has it."""
        past = self._plan().save_state()
        return torch.frombuffer(bytearray(past), dtype=torch.uint8) if past else torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Loaded with the rest."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As a compiled model's, and the streams continue from the saved past. Raises FormatError, with nothing changed, for the
        past of other streams. Without a past in it the streams continue with theirs, or start anew where int8 scales change."""
        return super().load_state_dict(state_dict, strict, assign)

    def _extra(self) -> dict[str, Any]:
        return {_PAST: None}

    def _past(self, given: Mapping[str, Any]) -> bytes | None:
        past = given.get(_PAST)
        kept = self._plan().save_state()
        if _PAST not in given:  # of another scale the int8 past would mean something else
            return bytes(kept) if self._keeps_scales(given) else None
        if not isinstance(past, Tensor):
            got = type(past).__name__
        elif past.dtype != torch.uint8 or past.shape != (len(kept),) or past.layout != torch.strided:
            got = f"{past.dtype}{list(past.shape)}"
        elif past.device.type == "meta" or is_freed(past):
            got = "without memory"
        else:
            return past.detach().cpu().contiguous().numpy().tobytes()
        raise FormatError(
            "load_state_dict", f"_extra_state {got}", f"uint8[{len(kept)}], the past of {self.streams} streams",
            "Load the state of a stream of the same model, scheme and number of streams.",
        )  # fmt: skip

    def _keeps_scales(self, given: Mapping[str, Any]) -> bool:
        own = {k: v for k, v in self._state.tensors.items() if k.endswith(("_scale", "_zero_point", STRUCTURE))}
        return all(k not in given or torch.equal(given[k], v) for k, v in own.items())

    def _install(self, program: Program, state: State, past: bytes | None = None) -> None:
        try:
            super()._install(program, state, past)
        except ValueError as error:
            if isinstance(error, RtaccelError):
                raise
            raise FormatError(
                "load_state_dict", f"_extra_state: {error}", "the bytes that state_dict() gave", "Save it again."
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamModel:
        made = super().__deepcopy__(memo)
        assert isinstance(made, StreamModel)
        made._plan().load_state(self._plan().save_state())
        return made


_PAST = "_extra_state"

_DTYPES = {1: (torch.int64,), 2: (torch.float32, torch.int32, torch.int64, *SMALL), 3: (torch.float32, *SMALL)}
"""Of a time step, by its dimensions."""


@errors_of("stream", "compile")
@one_at_a_time
@outside_untouched
def stream(
    model: nn.Module,
    example_step: Tensor | Sequence[Tensor],
    scheme: SchemeLike = "float32",
    calibration: Any = None,
    threads: int = 1,
    device: str | torch.device = "cpu",
    mode: str | None = None,
    front: nn.Module | None = None,
    context: int | None = None,
    delay: int = 0,
    layout: str | None = None,
) -> StreamModel:
    """Compiles a model over windows into one that takes a time step per call.

    model: takes windows [batch, time, features], [batch, features, time] (convolutions) or [time, batch, features], or samples,
        [batch, time * features] or [batch, 1, time * features], of which a time step is a chunk: transforms of frames that
        overlap, convolutions with a stride, pooling;
        LSTM and GRU in one direction, causal Conv1d (padded on the left, or padded on both sides and cut), attention with a
        causal mask, layers that treat time steps alike, residuals; its head reads the newest time step, or every time step.
    example_step: one time step of every stream, float32 or whole numbers [streams, features] (or int64 [streams] of indices); the
        number of streams is fixed to that of the example. Of a network with strides it is several rows, as many as the strides
        make one of: float32 [streams, rows, features], or [streams, features, rows] where its windows are
        [batch, features, time]. Results of several rows are [streams, rows, outputs].
    scheme: as in `compile`.
    calibration: windows in the model's own layout, float32 [batch, time, features] for example, all of one length.
    threads: as in `compile`.
    device: "cuda" for a GPU.
    mode: on a GPU, "persistent", the default of one stream: a persistent kernel with its states. It takes
        an LSTM or GRU in static W8A8 or W4A8, with or without such a linear head, or causal convolutions in static W8A8 with
        residuals, activations and linear layers. Tensors are then the CPU's as well, `close()` ends the kernel, and
        the past of the stream is in the state dict.
        "graph", the default of several: a time step of all streams is one CUDA graph, of any model and number of streams, their
        states in the GPU's memory. Tensors are the GPU's.
    front: what turns a time step as it comes, float32 [streams, ...], into one of the model, [streams, features]: any model
        without a past that `compile` takes whole, such as the spectrum of a chunk of samples. It is computed in float32, in the
        same plan. `example_step` and `calibration` are then what it takes, [streams, ...] and [batch, time, ...].
    context: time steps that attention keeps keys and values of, and that a table of positions has rows for, at least 2; the model
        must take a window of it, and calibration windows have this length. Attention whose mask ends earlier keeps less, and
        needs no context. Later, attention sees the last `context` time steps. A stream with a table of positions ends there: a
        further step raises FormatError until its reset.

    delay: time steps that a result comes after its own, for networks that look ahead: convolutions padded on both sides. `step`
        then gives the output of the time step that was `delay` calls ago; those of the first `delay` calls mean nothing.
    layout: of the model's windows, where it takes more than one: "[batch, time, features]", "[batch, features, time]",
        "[time, batch, features]", "[batch, samples]" or "[batch, 1, samples]". Without it they are tried in this order, samples
        only where the model takes no windows of features.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.GRU(8, 16, batch_first=True).eval()
        >>> live = rt.stream(model, torch.randn(2, 8))
        >>> live.step(torch.randn(2, 8)).shape
        torch.Size([2, 16])

    Raises UnsupportedProblem with the reason (a future time step, a mean over all time steps, a layer that runs backwards),
    FormatError and ShapeError as `compile` does.
    """
    model = in_python("stream", model)
    args = as_tensors("stream", check_example(model, example_step))
    most = 3 if front is None else 8
    if len(args) != 1 or not isinstance(args[0], Tensor) or not 1 <= args[0].dim() <= most or not args[0].numel():
        got = ", ".join(str(list(a.shape)) if isinstance(a, Tensor) else type(a).__name__ for a in args)
        raise ShapeError("stream", got, "one time step of every stream, [streams, features]", "Pass one tensor.")
    step = args[0].cpu() if device == "cuda" else args[0]
    if step.dtype not in _DTYPES[min(step.dim(), 3) if front is None else min(step.dim(), 2)]:
        expected = (
            "float32 or whole numbers [streams, features], int64 [streams] of indices, or real or small numbers of rows"
        )
        raise ShapeError("stream", f"{step.dtype}{list(step.shape)}", expected, "Convert the example.")
    check_threads(threads, "cpu", None)
    if context is not None and (isinstance(context, bool) or not isinstance(context, int) or context < 2):
        raise ShapeError("stream", f"context={context!r}", "a number of time steps, at least 2", "Correct it.")
    if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
        raise ShapeError("stream", f"delay={delay!r}", "a number of time steps, 0 or more", "Correct it.")
    check_layout(layout, step, front is not None)
    device = check_options(device, None, mode)
    mode = _mode(device, mode, step)
    own = private_copy("stream", model)
    refused: UnsupportedProblem | None = None  # by windows of time steps; what follows takes them for samples
    if front is not None:
        found = stream_with_front(
            own, Front.of(front, step, mode == "persistent"), scheme, calibration, context, mode, delay
        )
    elif step.dim() == 3 or layout in SAMPLES:
        found = stream_of_chunks(own, step, scheme, calibration, context, None, mode, delay, layout)
    else:
        named = LAYOUTS if layout is None else [names for names in LAYOUTS if layout == words_of(names)]
        try:
            found = stream_program(own, step, scheme, calibration, mode, context, named, delay)
        except UnsupportedProblem as error:
            if mode == "persistent" or step.dim() != 2 or step.dtype not in (torch.float32, *SMALL):
                raise
            refused = error
            found = stream_of_chunks(own, step, scheme, calibration, context, refused, mode, delay, layout)
    order = found.layout
    check_stream_state(found.model, step, order, context or _length(calibration, order))
    title = f"{type(model).__name__}, streamed"
    options = Options(
        step.shape[0],
        title=title,
        threads=threads,
        states=found.states,
        device="cuda" if mode == "graph" else "cpu",  # tensors of a persistent kernel are the host's
        mode=mode,
        scheme=str(SchemeMap(scheme)),
        index=current_index("cuda" if mode == "graph" else "cpu"),
    )
    live = StreamModel(found.program, options, ("x_t",))
    live.note(f"windows of the model are {found.seen or words_of(order)}")
    alone = refused is not None and (found.states is None or not found.states.names)
    if SchemeMap(scheme).exact and mode != "persistent":
        trained = any(isinstance(module, FakeQuant) for module in model.modules())
        tolerance = SWAPPED_TOLERANCE if trained else TOLERANCE
        own_copy = private_copy("stream", found.model)
        seen = verify_stream(own_copy, live, step, order, context, tolerance, delay, found.results)
        if refused is not None and alone and seen.startswith(NOT_VERIFIED):
            raise refused  # what keeps nothing of the past, and is not seen to be right, took time steps for channels
        live.note_verified(seen)
    elif alone:
        stream(model, example_step, context=context, delay=delay, layout=layout)  # raises where float32 is refused
    return live


def _mode(device: str, mode: str | None, step: Tensor) -> str | None:
    """How a stream runs on a GPU, "persistent" or "graph"; None on the CPU. Raises a typed error for what there is not."""
    if device == "cpu" and mode is None:
        return None
    if mode not in (None, "persistent", "graph"):
        raise UnsupportedProblem("stream", f"mode={mode!r}", "mode='persistent' or 'graph'", "Name one of them.")
    mode = mode or default_mode(step)
    if mode == "persistent" and (step.dim() != 2 or step.shape[0] != 1 or not step.is_floating_point()):
        raise ShapeError(
            "stream", f"an example {describe(step)}", "one stream, float32 [1, features]",
            "Make one a stream, or use mode='graph'.",
        )  # fmt: skip
    return mode


def _length(calibration: Any, layout: tuple[str, ...]) -> int:
    """That of the calibration windows, where they can be looked at again."""
    first = calibration
    for _ in range(2):  # a window, a list of windows, or of tuples with one
        if isinstance(first, (list, tuple)) and first:
            first = first[0]
    known = isinstance(first, Tensor) and first.dim() >= len(layout) - 1
    return int(first.shape[layout.index("time")]) if known else LENGTHS[0]

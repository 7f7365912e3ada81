"""Forms in which a time step is a chunk of the window: some samples, or several rows of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.convert.streaming.window import LAYOUTS
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.scheme import SchemeLike
from rtaccel.runtime.streaming.program import StreamedModel, stream_program


@dataclass(frozen=True)
class Chunks:
    """A form of windows. what: its words. fits: whether a window has it. joined: the window that chunks make, [batch, time, ...].
    cut: the chunks of a window, [batch, time, numbers of one]."""

    what: str
    fits: Callable[[Tensor], bool]
    joined: Callable[[Tensor], Tensor]
    cut: Callable[[Tensor], Tensor]


def forms_of(step: Tensor) -> tuple[Chunks, ...]:
    """Those that a step may be a chunk of: [streams, samples], [streams, rows, features] or [streams, features, rows]."""
    size, (a, b) = step[0].numel(), (step.shape[1], step.shape[-1])
    if step.dim() == 2:
        return (
            Chunks("samples", lambda w: w.dim() == 2, lambda x: x.flatten(1), lambda w: w.reshape(len(w), -1, size)),
            Chunks(
                "samples of one channel",
                lambda w: w.dim() == 3 and w.shape[1] == 1,
                lambda x: x.flatten(1)[:, None],
                lambda w: w.reshape(len(w), -1, size),
            ),
        )
    return (
        Chunks(
            f"[batch, time, {b}]",
            lambda w: w.dim() == 3 and w.shape[2] == b,
            lambda x: x.reshape(len(x), -1, b),
            lambda w: w.reshape(len(w), -1, size),
        ),
        Chunks(
            f"[batch, {a}, time]",
            lambda w: w.dim() == 3 and w.shape[1] == a,
            lambda x: x.reshape(len(x), -1, a, b).transpose(2, 3).reshape(len(x), -1, a).transpose(1, 2),
            lambda w: w.reshape(len(w), a, -1, b).transpose(1, 2).flatten(2),
        ),
    )


class _Joined:
    """A forward hook that makes windows of chunks."""

    def __init__(self, form: Chunks) -> None:
        self.form = form

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.form.joined(args[0]),)


def stream_of_chunks(
    model: nn.Module,
    step: Tensor,
    scheme: SchemeLike,
    calibration: Any,
    context: int | None,
    refused: UnsupportedProblem | None = None,
    mode: str | None = None,
    delay: int = 0,
) -> StreamedModel:
    """model: a copy that may be changed. refused: why its windows have no time steps of one row. Raises UnsupportedProblem with
    what every form met."""
    reasons = [] if refused is None else [str(refused.got)]
    windows = None if calibration is None else [as_args(batch)[0] for batch in batches_of("stream", calibration)]
    for form in forms_of(step):
        if windows is not None and not all(form.fits(window) for window in windows):
            reasons.append(f"{form.what}: calibration data of shape {list(windows[0].shape)}")
            continue
        data = None if windows is None else [_cut(form, window, step) for window in windows]
        hook = model.register_forward_pre_hook(_Joined(form))
        try:
            return stream_program(model, step, scheme, data, mode, context, LAYOUTS[:1], delay)
        except UnsupportedProblem as error:
            hook.remove()
            reasons.append(f"{form.what}: {error.got}")
            refused = refused or error
    if refused is None:
        raise ShapeError(
            "stream", "; ".join(reasons), f"windows for steps of {list(step.shape[1:])}", "Correct one of them."
        )
    raise UnsupportedProblem("stream", "; ".join(reasons), refused.expected, refused.next_step) from refused


def _cut(form: Chunks, window: Tensor, step: Tensor) -> Tensor:
    """[batch, time, numbers of a step]. Raises ShapeError where a window is no whole number of steps."""
    if not window.numel() or window[0].numel() % step[0].numel():
        raise ShapeError("stream", f"calibration data of {list(window.shape)}", f"windows of a whole number of steps, "
                         f"{list(step.shape[1:])} each", "Cut the windows.")  # fmt: skip
    return form.cut(window)

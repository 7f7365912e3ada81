"""Models over samples, [batch, samples] or [batch, 1, samples]: a time step is a chunk of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.convert.streaming.window import LAYOUTS
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.scheme import SchemeLike
from rtaccel.runtime.streaming.program import StreamedModel, stream_program

CHANNELS = (0, 1)
"""Dimensions of one channel between those of the batch and of the samples: first without."""


class _Joined:
    """A forward hook that joins the chunks of a window, [batch, time, samples of a step]."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        samples = args[0].flatten(1)
        return (samples[:, None] if self.channels else samples,)


def stream_of_samples(
    model: nn.Module,
    step: Tensor,
    scheme: SchemeLike,
    calibration: Any,
    context: int | None,
    refused: UnsupportedProblem,
    mode: str | None = None,
) -> StreamedModel:
    """model: a copy that may be changed. refused: why its windows have no time steps. Raises it with what was met here too."""
    reasons: list[str] = []
    windows = None if calibration is None else [as_args(batch)[0] for batch in batches_of("stream", calibration)]
    for channels in CHANNELS:
        what = "samples of one channel" if channels else "samples"
        if windows is not None and any(
            window.dim() != 2 + channels or (channels and window.shape[1] != 1) for window in windows
        ):
            reasons.append(f"{what}: calibration data of shape {list(windows[0].shape)}")
            continue
        data = None if windows is None else [_chunks(window, step.shape[1]) for window in windows]
        hook = model.register_forward_pre_hook(_Joined(channels))
        try:
            return stream_program(model, step, scheme, data, mode, context, LAYOUTS[:1])
        except UnsupportedProblem as error:
            hook.remove()
            reasons.append(f"{what}: {error.got}")
    got = "; ".join((str(refused.got), *reasons))
    raise UnsupportedProblem("stream", got, refused.expected, refused.next_step) from refused


def _chunks(window: Tensor, size: int) -> Tensor:
    """[batch, time, size]. Raises ShapeError where a window is no whole number of steps."""
    if window.shape[-1] % size or not window.shape[-1]:
        raise ShapeError("stream", f"calibration data of {list(window.shape)}", f"windows of samples, a whole number of steps "
                         f"of {size}", "Cut the windows.")  # fmt: skip
    return window.reshape(len(window), -1, size)

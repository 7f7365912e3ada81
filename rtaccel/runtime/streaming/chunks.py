"""Forms in which a time step is a chunk of the window: some samples, or several rows of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.convert.streaming.window import LAYOUTS, LENGTHS, takes
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import SchemeLike
from rtaccel.runtime.streaming.program import StreamedModel, stream_program


@dataclass(frozen=True)
class Chunks:
    """A form of windows. fits: whether a window has it. joined: the window that chunks make, [batch, time, ...].
    cut: the chunks of a window, [batch, time, numbers of one]."""

    what: str
    """As `layout=` names it."""
    fits: Callable[[Tensor], bool]
    joined: Callable[[Tensor], Tensor]
    cut: Callable[[Tensor], Tensor]


SAMPLES = ("[batch, samples]", "[batch, 1, samples]")


def forms_of(step: Tensor) -> tuple[Chunks, ...]:
    """Those that a step may be a chunk of: [streams, samples], [streams, rows, features] or [streams, features, rows]."""
    size, (a, b) = step[0].numel(), (step.shape[1], step.shape[-1])
    if step.dim() == 2:
        return (
            Chunks(SAMPLES[0], lambda w: w.dim() == 2, lambda x: x.flatten(1), lambda w: w.reshape(len(w), -1, size)),
            Chunks(
                SAMPLES[1],
                lambda w: w.dim() == 3 and w.shape[1] == 1,
                lambda x: x.flatten(1)[:, None],
                lambda w: w.reshape(len(w), -1, size),
            ),
        )
    return (
        Chunks(
            "[batch, time, features]",
            lambda w: w.dim() == 3 and w.shape[2] == b,
            lambda x: x.reshape(len(x), -1, b),
            lambda w: w.reshape(len(w), -1, size),
        ),
        Chunks(
            "[batch, features, time]",
            lambda w: w.dim() == 3 and w.shape[1] == a,
            lambda x: x.reshape(len(x), -1, a, b).transpose(2, 3).reshape(len(x), -1, a).transpose(1, 2),
            lambda w: w.reshape(len(w), a, -1, b).transpose(1, 2).flatten(2),
        ),
    )


def words_of(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def check_layout(layout: Any, step: Tensor, has_front: bool) -> None:
    """Raises FormatError for a layout that windows of such steps do not have."""
    known = [form.what for form in forms_of(step)] if step.dim() > 1 and not has_front else []
    known += [words_of(names) for names in LAYOUTS] if step.dim() == 2 and not has_front else []
    if layout is not None and layout not in known:
        raise FormatError("stream", f"layout={layout!r}", " or ".join(f'"{k}"' for k in dict.fromkeys(known)) or "none here",
                          "Name one of them, or leave it out.")  # fmt: skip


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
    layout: str | None = None,
) -> StreamedModel:
    """model: a copy that may be changed. refused: why its windows have no time steps of one row. layout: the form that is meant.
    Raises UnsupportedProblem with what every form met."""
    reasons = [] if refused is None else [str(refused.got)]
    windows = None if calibration is None else [as_args(batch)[0] for batch in batches_of("stream", calibration)]
    for form in forms_of(step):
        if layout not in (None, form.what):
            continue
        if layout is None and windows is None and form.what in SAMPLES and _takes_features(model, step):
            reasons.append(
                f"{form.what}: not tried, for the model takes windows of features; layout= says what they are"
            )
            continue
        if windows is not None and not all(form.fits(window) for window in windows):
            reasons.append(f"{form.what}: calibration data of shape {list(windows[0].shape)}")
            continue
        data = None if windows is None else [_cut(form, window, step) for window in windows]
        hook = model.register_forward_pre_hook(_Joined(form))
        try:
            found = stream_program(model, step, scheme, data, mode, context, LAYOUTS[:1], delay)
            return replace(found, seen=form.what)
        except UnsupportedProblem as error:
            hook.remove()
            reasons.append(f"{form.what}: {error.got}")
            refused = refused or error
    if refused is None:
        raise ShapeError(
            "stream", "; ".join(reasons), f"windows for steps of {list(step.shape[1:])}", "Correct one of them."
        )
    raise UnsupportedProblem("stream", "; ".join(reasons), refused.expected, refused.next_step) from refused


def _takes_features(model: nn.Module, step: Tensor) -> bool:
    """Whether the model takes windows [batch, features, time] or [batch, time, features]."""
    shapes = ((1, step.shape[1], LENGTHS[0]), (1, LENGTHS[0], step.shape[1]))
    return any(takes(model, torch.ones(shape, dtype=step.dtype)) for shape in shapes)


def _cut(form: Chunks, window: Tensor, step: Tensor) -> Tensor:
    """[batch, time, numbers of a step]. Raises ShapeError where a window is no whole number of steps."""
    if not window.numel() or window[0].numel() % step[0].numel():
        raise ShapeError("stream", f"calibration data of {list(window.shape)}", f"windows of a whole number of steps, "
                         f"{list(step.shape[1:])} each", "Cut the windows.")  # fmt: skip
    return form.cut(window)

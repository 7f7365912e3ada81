"""A stream against its model over windows: the newest output after some steps is the last one of the window so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.streaming.window import LENGTHS
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.runtime.build import check_state
from rtaccel.runtime.verification.results import rms

STEPS = (3, 11, 23)
"""Lengths of the windows that are compared: unlike most widths, by which time is told from features."""

MAX_COMPARED = 61
"""Time steps of the longest window that is compared where a context is given."""

TOLERANCE = 1e-3

NOT_VERIFIED = "not verified"
"""How the text begins where nothing could be compared."""


def window_of(step: Tensor, layout: tuple[str, ...], length: int, generator: torch.Generator) -> Tensor:
    """A random window of one stream, in the form that the model takes."""
    if step.dim() == 1:  # indices: others might not be in the model's tables
        return step[:1, None].expand(1, length).contiguous()
    sizes = {"batch": (1,), "time": (length,), "features": tuple(step.shape[1:])}
    shape = [size for name in layout for size in sizes[name]]
    if not step.is_floating_point():
        return torch.randint(
            0 if step.dtype == torch.uint8 else -9, 10, shape, generator=generator, dtype=step.dtype, device="cpu"
        )
    return torch.randn(shape, generator=generator, device="cpu")


def check_stream_state(model: nn.Module, step: Tensor, layout: tuple[str, ...], window: int) -> None:
    """Raises UnsupportedProblem where attributes of the model carry state from window to window. window: a length that the
    model is known to take."""
    for length in (max(STEPS), LENGTHS[0], window) if window >= max(STEPS) else (window,):
        given = window_of(step, layout, length, torch.Generator().manual_seed(5))
        try:
            check_state("stream", model, (given,))
            return
        except UnsupportedProblem:
            raise
        except Exception:  # the model takes no window of this length
            continue


def _lengths(context: int | None) -> tuple[int, ...]:
    """Of the windows that are compared, none longer than the context."""
    if context is None:
        return STEPS
    return tuple(sorted({*(n for n in STEPS if n <= context), min(context, MAX_COMPARED)}))


def verify_stream(
    model: nn.Module,
    live: Any,
    step: Tensor,
    layout: tuple[str, ...],
    context: int | None = None,
    tolerance: float = TOLERANCE,
    delay: int = 0,
    results: Sequence[int] = (),
) -> str:
    """What a comparison in float32 showed. results: which of the model's results a step gives; () for all. Raises
    UnsupportedProblem where the steps are not those of the window."""
    start, generator = time.perf_counter(), torch.Generator().manual_seed(11)
    lengths = tuple(n + delay for n in _lengths(context)) if context is None else _lengths(context)
    longest = window_of(step, layout, max(lengths), generator)
    # By result: an error for each length, and the largest rms of any. One number may happen to be near zero: it is not
    # held to its own rms alone.
    errors, scales = dict[int, dict[int, float]](), dict[int, float]()
    for length in lengths:
        window = longest.narrow(layout.index("time"), 0, length)
        try:
            with torch.no_grad():
                leaves = pytree.tree_leaves(model(window))
        except Exception:  # the model takes no window of this length
            continue
        want = [leaves[i] for i in results] if results else leaves
        live.reset()
        for t in range(length):
            time_step = window.select(layout.index("time"), t)
            x = time_step.expand(live.streams or len(step), *time_step.shape[1:]).contiguous()
            got = [y.cpu() for y in pytree.tree_leaves(live.step(x.to(live._options.device)))]
        for index, y in enumerate(got):
            newest = _newest(want[index], length, y[:1], delay) if index < len(want) else None
            if newest is None or (step.is_floating_point() and not y.is_floating_point()):
                continue  # nothing to compare with; or a number that a rounding may decide
            errors.setdefault(index, {})[length] = rms((y[:1] - newest).double())
            scales[index] = max(scales.get(index, 1e-6), rms(newest.double()))
    worst, compared = 0.0, dict[int, None]()
    for index, by_length in errors.items():
        for length, error in by_length.items():
            share = error / scales[index]
            worst = max(worst, share)
            compared[length] = None
            if not share <= tolerance:
                raise UnsupportedProblem(
                    "stream",
                    f"{type(model).__name__}, whose step {length} differs from its window by {share:.2g} of the rms",
                    "steps that give the last output of the window so far",
                    "Check that the model is causal; please report it if it is.",
                )
    live.reset()
    ms = (time.perf_counter() - start) * 1e3
    if not compared:
        return f"{NOT_VERIFIED}: the model takes no short window, or its outputs are not told from their time"
    seen = ", ".join(map(str, compared))
    return f"verified against windows of {seen} in {ms:.0f} ms: largest difference {worst:.1e} of the rms"


def _newest(y: Any, length: int, got: Tensor, delay: int) -> Tensor | None:
    """The output of a window that is `delay` steps before the last, shaped like that of a step: along its time, or the whole."""
    if not isinstance(y, Tensor) or y.dim() < 2 or delay >= length:
        return None
    if length not in y.shape:
        return y if y.shape == got.shape else None
    rows = got.shape[1] if got.dim() == y.dim() == 3 else 1
    times = [dim for dim, size in enumerate(y.shape) if size == length * rows]
    if len(times) != 1:
        return None
    newest = y.movedim(times[0], 1)[:, (length - delay - 1) * rows : (length - delay) * rows]
    return newest if newest.shape == got.shape else newest[:, 0] if newest[:, 0].shape == got.shape else None

"""The forms that a window of a model can have, and the model of one time step that one of them gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import capture
from rtaccel.convert.streaming.walk import Streamed, Walk
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.row_traits import not_streamable

LAYOUTS = (("batch", "time", "features"), ("batch", "features", "time"), ("time", "batch", "features"))
LENGTHS = (61, 67)
"""Of the window that a model is traced with where calibration data does not say: primes, unlike any width."""


def stream_graph(
    model: nn.Module,
    features: int | None,
    dtype: torch.dtype,
    calibrated: tuple[int, ...] | None,
    context: int | None = None,
    layouts: Sequence[tuple[str, ...]] = LAYOUTS,
    in_order: bool = False,
) -> Streamed:
    """Tries the forms a window can have: [batch, time, features], [batch, features, time], [time, batch, features].

    features: None for windows [batch, time] of indices.
    calibrated: shape of a calibration window, whose length is then that of the trace. context: length of the trace where
    attention or a table of positions needs one, which calibration windows have too. in_order: states are values as others are,
    without rings that a kernel keeps in its own way.
    Raises UnsupportedProblem with what each form met where none can be streamed.
    """
    reasons: list[str] = []
    for length in LENGTHS if context is None else (context,):
        reasons = []
        tried = layouts if features is not None else LAYOUTS[:1]
        if calibrated is not None and len(calibrated) != (2 if features is None else 3):
            reasons.append(f"calibration data of shape {list(calibrated)}")
            break
        if (
            calibrated is not None
        ):  # in a window of one time step, samples and time steps look alike: that is tried last
            tried = tuple(sorted(tried, key=lambda layout: calibrated[layout.index("time")] == 1))
        for layout in tried:
            time_steps = length if calibrated is None else calibrated[layout.index("time")]
            if context not in (None, time_steps):
                reasons.append(
                    f"{list(layout)}: calibration windows of {time_steps} time steps, where context is {context}"
                )
                continue
            sizes = {"batch": 1, "time": time_steps, "features": features or 1}
            shape = [sizes[name] for name in layout if features is not None or name != "features"]
            if calibrated is not None and any(
                sizes[name] != size for name, size in zip(layout, calibrated) if name == "features"
            ):
                reasons.append(f"{list(layout)}: calibration data of shape {list(calibrated)}")
                continue
            try:
                window = torch.zeros(shape, dtype=dtype, device="cpu")
                return _streamed(model, window, time_steps, layout, context is not None, in_order)
            except UnsupportedProblem as error:
                reasons.append(f"{list(layout)}: {error.got}, {error.next_step}")
    raise UnsupportedProblem(
        "stream",
        f"{type(model).__name__}: {'; '.join(reasons)}",
        "LSTM, GRU, causal convolutions, causal attention and layers that treat time steps alike, from one input",
        "Pad convolutions on the left only, mask attention, and read the newest time step at the end.",
    )


def _streamed(
    model: nn.Module, window: torch.Tensor, length: int, layout: tuple[str, ...], has_context: bool, in_order: bool
) -> Streamed:
    exported = capture(model, (window,), fixed=True)
    if len(exported.inputs) != 1:
        raise not_streamable(f"{len(exported.inputs)} inputs")
    graph = build_graph(exported, None, windowed=True)
    left = [d for d in graph.op_nodes if d.is_fallback]
    if left:
        raise not_streamable(f"{left[0].name}: {left[0].reason}")
    return Walk(exported, graph, length, layout, has_context, in_order).run()

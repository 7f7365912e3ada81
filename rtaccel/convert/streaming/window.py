"""The forms that a window of a model can have, and the model of one time step that one of them gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import ExportedGraph, capture
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN
from rtaccel.convert.streaming.final_states import read_newest_output
from rtaccel.convert.streaming.log_scans import log_scans_as_recurrences
from rtaccel.convert.streaming.loops.complex_scans import with_complex_scans_as_loops
from rtaccel.convert.streaming.loops.find import loops_apart
from rtaccel.convert.streaming.loops.projections import with_projections_as_loops
from rtaccel.convert.streaming.padding import zeros_as_padding
from rtaccel.convert.streaming.samples_apart import meets_samples
from rtaccel.convert.streaming.time_softmax import softmax_as_running_means
from rtaccel.convert.streaming.walk import Streamed, Walk
from rtaccel.convert.streaming.whole_pools import whole_pools_as_reductions
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.row_traits import not_streamable

LAYOUTS = (("batch", "time", "features"), ("batch", "features", "time"), ("time", "batch", "features"))
LENGTHS = (61, 67)
"""Of the window that a model is traced with where calibration data does not say: primes, unlike any width."""


def takes(model: nn.Module, window: torch.Tensor) -> bool:
    """Whether the model computes something of such a window. What it makes of another layout may be broadcasting alone then."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(window)
    except Exception:
        return False
    return True


def _means_two(model: nn.Module, window: torch.Tensor, layout: tuple[str, ...]) -> bool:
    """Whether a model over [batch, time, features] gives something else of the same numbers as [batch, features, time]. One that
    treats all elements alike does not."""
    if layout != LAYOUTS[0] or window.dim() != 3 or not window.is_floating_point():
        return False
    given = torch.rand(window.shape, generator=torch.Generator().manual_seed(1)).to(window.dtype)
    if not takes(model, given.transpose(1, 2)):
        return False
    with torch.no_grad():
        one, other = model(given), model(given.transpose(1, 2))
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return False
    return one.dim() != 3 or one.shape != other.mT.shape or not torch.allclose(one, other.mT, equal_nan=True)


def _longer(window: torch.Tensor, layout: tuple[str, ...]) -> torch.Tensor:
    """With one time step more."""
    at = layout.index("time")
    return torch.cat([window, window.narrow(at, 0, 1)], at)


@contextmanager
def turned(model: nn.Module, layout: tuple[str, ...]) -> Iterator[None]:
    """Inside, a model over [batch, features, time] takes windows whose rows are time steps: what it does to its raw input is then
    seen as in any other layout."""
    if layout != LAYOUTS[1]:
        yield
        return
    hook = model.register_forward_pre_hook(_turn)
    try:
        yield
    finally:
        hook.remove()


def _turn(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0].transpose(1, 2), *args[1:])


def in_rows(window: torch.Tensor, layout: tuple[str, ...]) -> torch.Tensor:
    """A window of the model with a row for each time step."""
    return window.transpose(1, 2).contiguous() if layout == LAYOUTS[1] else window


def stream_graph(
    model: nn.Module,
    features: int | None,
    dtype: torch.dtype,
    calibrated: tuple[int, ...] | None,
    context: int | None = None,
    layouts: Sequence[tuple[str, ...]] = LAYOUTS,
    delay: int = 0,
) -> Streamed:
    """Tries the forms a window can have: [batch, time, features], [batch, features, time], [time, batch, features].

    features: None for windows [batch, time] of indices.
    calibrated: shape of a calibration window, whose length is then that of the trace. context: length of the trace where
    attention or a table of positions needs one, which calibration windows have too. delay: steps that
    a result comes after its own.
    Raises UnsupportedProblem with what each form met where none can be streamed.
    """
    reasons: list[str] = []
    for length in LENGTHS if context is None else (context,):
        reasons, taken = [], False
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
            window = torch.zeros(shape, dtype=dtype, device="cpu")
            if layout == LAYOUTS[1] and taken and calibrated is None:
                reasons.append(
                    f"{list(layout)}: not tried, for the model takes {list(LAYOUTS[0])} too; layout= says what it is"
                )
                continue
            try:
                with turned(model, layout):
                    streamed = _streamed(model, in_rows(window, layout), time_steps, layout, context is not None, delay)
                if meets_samples(model, window, layout.index("batch")):
                    raise not_streamable("an output of one sample that changes with the samples beside it")
                every = streamed.whole or (calibrated is None and streamed.memory == time_steps - 1)
                if context is None and every and (calibrated is None or takes(model, _longer(window, layout))):
                    raise not_streamable(f"an output that needs all {time_steps} time steps of a window of as many")
                if (
                    calibrated is None
                    and LAYOUTS[1] in tried
                    and not streamed.states
                    and _means_two(model, window, layout)
                ):
                    raise not_streamable(
                        f"an output that keeps nothing, of a model that takes {list(LAYOUTS[1])} too; layout= says what it is"
                    )
                return streamed
            except UnsupportedProblem as error:
                reasons.append(f"{list(layout)}: {error.got}, {error.next_step.split(' (at ')[0]}")
                taken = layout == LAYOUTS[0] and takes(model, window)
    raise UnsupportedProblem(
        "stream",
        f"{type(model).__name__}: {'; '.join(reasons)}",
        "LSTM, GRU, causal convolutions, causal attention and layers that treat time steps alike, from one input",
        "Pad convolutions on the left only, mask attention, and read the newest time step at the end.",
    )


def _streamed(
    model: nn.Module,
    window: torch.Tensor,
    length: int,
    layout: tuple[str, ...],
    has_context: bool,
    delay: int,
) -> Streamed:
    exported = capture(model, (window,), fixed=True)
    scans = any(node.target is LINEAR_SCAN for node in exported.graph.nodes)
    pooled = softmax_as_running_means(exported.graph, length)
    try:
        return _walked(model, exported, window, length, layout, has_context, delay)
    except UnsupportedProblem as error:
        # A recurrence that does not begin with zeros has a first step of its own: as a loop it streams.
        others = ((False, True),) if scans else ()
        for rolled, joins in (*others, *(((True, False),) if pooled else ())):
            other = capture(model, (window,), fixed=True, rolled=rolled)
            if joins:
                softmax_as_running_means(other.graph, length)
            try:
                return _walked(model, other, window, length, layout, has_context, delay)
            except UnsupportedProblem as found:
                error = error if joins else found  # of the model as it is written
        raise error from None


def _walked(
    model: nn.Module,
    exported: ExportedGraph,
    window: torch.Tensor,
    length: int,
    layout: tuple[str, ...],
    has_context: bool,
    delay: int,
) -> Streamed:
    if len(exported.inputs) != 1:
        raise not_streamable(f"{len(exported.inputs)} inputs")
    with_projections_as_loops(exported.graph, length)
    read_newest_output(exported.graph)
    zeros_as_padding(exported.graph)
    whole_pools_as_reductions(exported.graph)
    log_scans_as_recurrences(exported.graph)
    with_complex_scans_as_loops(exported.graph, length)
    apart = loops_apart(exported, length)
    graph = build_graph(apart.exported, None, windowed=True)
    graph = replace(graph, outputs=graph.outputs[: len(_results(exported))])
    left = [d for d in graph.op_nodes if d.is_fallback]
    if left:
        raise not_streamable(f"{left[0].name}: {left[0].reason}")
    walked = replace(apart.exported, inputs=exported.inputs)
    try:
        streamed = Walk(walked, graph, length, layout, has_context, delay, apart.loops).run()
    except UnsupportedProblem as error:
        if apart.why:
            raise not_streamable(f"{error.got}: {apart.why}") from error
        raise
    streamed = replace(streamed, exported=replace(exported, repeats=apart.repeats))
    if layout[0] == "time" and streamed.memory == 0 and _has_first(exported, length):
        raise not_streamable("an output that keeps nothing along the first dimension, which then is its samples")
    return streamed


def _results(exported: ExportedGraph) -> tuple[Any, ...]:
    returned: Any = next(n for n in exported.graph.nodes if n.op == "output").args[0]
    return tuple(returned)


def _has_first(exported: ExportedGraph, length: int) -> bool:
    """Whether a result has a row for each row of the first dimension. A model that treats these alike, and all else in them as
    it likes, takes them for samples; what has no past along time is streamed with its samples first."""
    made = (n.meta.get("val") for n in _results(exported) if isinstance(n, fx.Node))
    return any(isinstance(value, torch.Tensor) and value.shape[:1] == (length,) for value in made)

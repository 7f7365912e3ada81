"""The layer that would take another one's place: built, timed against it, and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from rtaccel.convert.module_swap import benchmark
from rtaccel.convert.module_swap.eligibility import QUANTIZED, Quantized, Swappable, SwapSite, is_conv, shape_of
from rtaccel.convert.module_swap.swap_report import SwapEntry
from rtaccel.convert.quantization.input_observer import SAMPLE_ROWS, InputObserver
from rtaccel.convert.quantization.rounding import rounded_weight, rounds
from rtaccel.convert.weights.prune import InputStatistics
from rtaccel.core.errors import RtaccelError
from rtaccel.core.scheme import Scheme
from rtaccel.nn.linear import QuantLinear


@dataclass(frozen=True, eq=False)
class SwapCandidate:
    names: tuple[str, ...]
    module: Swappable
    candidate: Quantized | None
    entry: SwapEntry


def draft(layer: SwapSite, watch: InputObserver | None, rows: int | None, force: bool) -> SwapCandidate:
    """Builds, times and judges the layer that would take this one's place. The model is not touched."""
    module, name = layer.module, layer.names[0]
    common: dict[str, Any] = {
        "fqn": name,
        "scheme": str(layer.scheme),
        "shape": shape_of(module),
        "bytes_before": _bytes(*module.parameters()),
        "also": layer.names[1:],
    }
    reason = layer.reason
    if reason is None and watch is not None and watch.sample is None:
        reason = "no calibration batch reached it"
    if reason is None and watch is None and is_conv(module):
        reason = "the size of its input is not known without calibration"
    if reason is not None:
        return SwapCandidate(layer.names, module, None, SwapEntry(action="kept", reason=reason, **common))
    try:
        observer = None if watch is None else watch.observer
        nearest = replace(layer.scheme, rounding="nearest") if rounds(layer.scheme) else layer.scheme  # type: ignore[call-arg]
        candidate: Quantized = cast(Any, quantized_form(module)).from_float(module, nearest, observer)
        statistics = None if watch is None or watch.statistics is None else watch.statistics.inputs()
        if statistics is not None:
            _round(cast(QuantLinear, candidate), module, layer.scheme, statistics)
    except RtaccelError as error:
        raise type(error)(f"quantize_: {name}: {error.op}", error.got, error.expected, error.next_step) from error
    x, sample = _inputs(module, watch, rows)
    timed = benchmark.Compared(*benchmark.compare(module, candidate, x))
    swap = timed.faster or force
    reason = _verdict(timed, type(module).__name__)
    if force and not timed.faster:
        reason = f"forced, though {reason}"
    if rounds(layer.scheme) and not isinstance(module, nn.Linear):
        reason += "; rounded to the nearest: rounding for inputs is for linear layers"
    entry = SwapEntry(
        action="swapped" if swap else "kept",
        reason=reason,
        activation=getattr(candidate.scheme, "activation", None),
        bytes_after=_bytes(*candidate.buffers()),
        rows=x.shape[0] if is_conv(module) else x.shape[:-1].numel(),
        us_before=timed.us_before,
        us_after=timed.us_after,
        spread=timed.spread,
        error=_error(module, candidate, sample),
        **common,
    )
    return SwapCandidate(layer.names, module, candidate if swap else None, entry)


def _round(candidate: QuantLinear, module: nn.Module, scheme: Scheme, statistics: InputStatistics) -> None:
    """The weight and bias of a layer just made, rounded for its inputs."""
    weight, given = module.get_parameter("weight").detach().cpu(), module._parameters.get("bias")
    tensors, _, bias = rounded_weight(weight, None if given is None else given.detach().cpu(), scheme, statistics)
    made = {**tensors, "bias": bias}
    device = candidate.device
    for name, tensor in made.items():
        candidate._buffers[candidate.STORED if name == "weight" else name] = tensor.to(device)


def _verdict(timed: benchmark.Compared, kind: str) -> str:
    figures = f"{timed.us_after:.2f} us against {timed.us_before:.2f} us of nn.{kind}"
    if timed.faster:
        text = f"faster: {figures}"
    elif timed.us_after < timed.us_before:
        text = f"not faster by {benchmark.MARGIN:.0%}: {figures}"
    else:
        text = f"not faster: {figures}"
    if not timed.steady:
        text += f"; unsteady, half of those times spread over {timed.spread:.0%}"
    return text


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _inputs(module: Swappable, watch: InputObserver | None, rows: int | None) -> tuple[Tensor, Tensor]:
    """An input to time with, of the shape seen in calibration if none is asked for, and rows to take the error on."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")
        return x.to(next(module.parameters()).device)

    seen = None if watch is None else watch.shape
    if is_conv(module):
        assert watch is not None and watch.sample is not None and seen is not None
        return random(*(seen if rows is None else (rows, *seen[1:]))), watch.sample
    width = shape_of(module)[1]
    shape = (rows or 1, width) if seen is None or rows is not None else seen
    sample = None if watch is None else watch.sample
    return random(*shape), random(SAMPLE_ROWS, width) if sample is None else sample


def _error(module: nn.Module, candidate: nn.Module, sample: Tensor) -> float:
    """Recurrent layers take the rows as a window."""

    def output(layer: nn.Module) -> Tensor:
        result = layer(sample)
        return (result if isinstance(result, Tensor) else result[0]).double()

    with torch.no_grad():
        want = output(module)
        difference = output(candidate) - want
    return float(difference.square().mean().sqrt() / want.square().mean().sqrt().clamp_min(1e-30))


def quantized_form(module: nn.Module) -> type[Quantized]:
    return next(made for kind, made in QUANTIZED.items() if isinstance(module, (kind, made)))

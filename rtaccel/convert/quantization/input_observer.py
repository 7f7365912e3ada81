"""Calibration for a swap: the float model runs over batches, and the inputs of its layers are watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.batches import batches_of, call_with
from rtaccel.convert.frontend.checks import check_modes
from rtaccel.convert.quantization.value_statistics import ValueStatistics
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.formats.observe import RangeObserver

SAMPLE_ROWS = 64


class InputObserver:
    """What calibration shows of one layer's input: its range, the shape of the first batch, and a few of its rows."""

    def __init__(self, name: str, width: int | None = None) -> None:
        """width: K of a layer whose weights are rounded for these inputs, for their second moments."""
        self.name = name
        self.statistics = None if width is None else ValueStatistics(f"the input of {name}", width)
        self.observer = RangeObserver(f"the input of {name}")
        self.shape: tuple[int, ...] | None = None
        self.sample: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor):
            raise UnsupportedProblem(
                "calibration", f"a {type(x).__name__} for {self.name}", "plain tensors",
                "Calibrate with sequences of one length, or leave this layer out with filter_fn.",
            )  # fmt: skip
        with torch.device("cpu"):  # the observer's random choices, whatever torch's default device is
            self.observer.observe(x)
            if self.statistics is not None and x.numel():
                self.statistics.observe(x)
        if self.sample is None and x.numel():
            self.shape = tuple(x.shape)
            rows = x.detach() if isinstance(module, (nn.Conv1d, nn.Conv2d)) else x.detach().reshape(-1, x.shape[-1])
            self.sample = rows[:SAMPLE_ROWS].clone()


def watch_inputs(
    model: nn.Module, watched: Mapping[Any, Callable[..., None]], calibration: Any, op: str = "quantize_"
) -> None:
    """Runs the model over the batches: tensors, tuples of arguments or dicts of keyword arguments.

    Raises FormatError where a layer is fed a NaN or an infinity, and for no batch at all.
    """
    check_modes(op, model)
    count = 0
    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer, watch in watched.items()]
    try:
        with torch.no_grad():
            for batch in batches_of(op, calibration):
                call_with(model, batch, op, count)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise FormatError(op, "calibration without a batch", "at least one", "Pass batches of real inputs.")

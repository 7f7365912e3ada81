"""Ranges of activations from calibration data: absolute extremes, a percentile, or the clipping of least error.

A static scale has to be chosen before the data is seen. Covering the extremes wastes steps on outliers;
clipping them costs the outliers. `mse` tries several clippings on a sample of what was seen and keeps the
one with the least mean squared error: both ends shrunk together by one factor first, from 1 (no clipping)
to 1/64, then each end on its own around the best of those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import Observer
from rtaccel.core.stage import QParams
from rtaccel.formats.int8 import dequantize, quant_of_range, quantize

SAMPLE = 65_536
"""Values kept per tensor for the percentile and the search; extremes are taken over all values."""

PERCENTILE = 0.9999
_TOGETHER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.14, 0.1, 0.07, 0.05, 0.03, 1 / 64)
_ALONE = (0.7, 0.85, 0.95, 1.05, 1.2)


def refuse_non_finite(name: str, x: Tensor) -> None:
    """Raises FormatError where calibration data hold a NaN or an infinity: a range or a sum of them says nothing."""
    if not torch.isfinite(x).all():
        raise FormatError("calibration", f"a NaN or infinity in {name}", "finite activations", "Leave that sample out.")


class RangeObserver:
    """Collects what one tensor holds over the calibration batches."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.low, self.high = float("inf"), float("-inf")
        self.seen = 0
        self._kept: list[Tensor] = []
        self._generator = torch.Generator("cpu").manual_seed(0)  # the same data gives the same scales

    def observe(self, x: Tensor) -> None:
        flat = x.detach().float().flatten()
        if flat.numel() == 0:
            return
        refuse_non_finite(self.name, flat)
        self.low, self.high = min(self.low, flat.min().item()), max(self.high, flat.max().item())
        self.seen += flat.numel()
        if flat.numel() > SAMPLE // 8:
            flat = flat[torch.randint(flat.numel(), (SAMPLE // 8,), generator=self._generator, device="cpu")]
        self._kept.append(flat.clone())
        if sum(t.numel() for t in self._kept) > 2 * SAMPLE:
            everything = torch.cat(self._kept)
            self._kept = [
                everything[torch.randperm(everything.numel(), generator=self._generator, device="cpu")[:SAMPLE]]
            ]

    def quant(self, observer: Observer) -> QParams:
        """The static scale and zero point. Raises FormatError where nothing was seen."""
        if not self.seen:
            raise FormatError(
                "calibration", f"no value for {self.name}", "at least one batch", "Pass calibration= with real inputs."
            )
        if observer == "absmax":
            return quant_of_range(self.low, self.high)
        sample = torch.cat(self._kept)
        if observer == "percentile":
            ranked = sample.sort().values
            last = ranked.numel() - 1
            return quant_of_range(
                ranked[round((1 - PERCENTILE) * last)].item(), ranked[round(PERCENTILE * last)].item()
            )
        return self._least_error(sample)

    def _least_error(self, sample: Tensor) -> QParams:
        tried: dict[tuple[float, float], float] = {}

        def error(ends: tuple[float, float]) -> float:
            if ends not in tried:
                quant = quant_of_range(*ends)
                tried[ends] = (dequantize(quantize(sample, quant), quant) - sample).square().mean().item()
            return tried[ends]

        low, high = min(((self.low * f, self.high * f) for f in _TOGETHER), key=error)
        low, high = min(((max(self.low, low * f), high) for f in (1.0, *_ALONE)), key=error)
        low, high = min(((low, min(self.high, high * f)) for f in (1.0, *_ALONE)), key=error)
        return quant_of_range(low, high)

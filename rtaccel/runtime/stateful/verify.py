"""A compiled model that keeps state against the model, call after call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.core.errors import RtaccelError
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.verification.results import cloned, compare_results
from rtaccel.runtime.verification.verify import other_values, tolerance_for

CALLS = 8


@dataclass(frozen=True)
class VerifiedCalls:
    """differs: what does, and at which call; empty where nothing does. note: for `explain`."""

    differs: str
    note: str


def verified_calls(
    model: nn.Module, fast: CompiledModel, args: tuple[Any, ...], tolerance: float | None = None
) -> VerifiedCalls:
    """Calls both with the same numbers, new ones each time. The model itself is copied; the state of `fast` moves."""
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(7)
    reference, twin = private_copy("compile", model), private_copy("compile", model)
    tolerance = tolerance_for(model, args) if tolerance is None else tolerance
    worst = 0.0
    for call in range(CALLS):
        given = other_values(args, generator, noise=float(call > 0))
        try:
            with torch.no_grad():
                want = cloned(reference(*cloned(given)))  # a later call may write over it
                again = twin(*cloned(given))
        except Exception as error:  # the model's own words: its state has come to an end
            return VerifiedCalls(
                "", f"verified against the model over {call} calls, then it raises {type(error).__name__}"
            )
        if compare_results(want, again, 0.0)[0] is not None:
            return VerifiedCalls("", "not verified: the model gives another result each time it is called")
        try:
            got = fast(*cloned(given))
        except RtaccelError as error:
            return VerifiedCalls(f"call {call + 1} raises: {error}", "")
        differs, error_of = compare_results(want, got, tolerance)
        if differs is not None:
            return VerifiedCalls(f"at call {call + 1} {differs}", "")
        worst = max(worst, error_of)
    took = (time.perf_counter() - start) * 1e3
    return VerifiedCalls(
        "", f"verified against the model over {CALLS} calls in {took:.0f} ms: largest difference {worst:.1e} of the rms"
    )

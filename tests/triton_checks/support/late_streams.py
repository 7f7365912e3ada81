"""Streams whose results come late, of several rows a step, and with masks that are written out, in a graph by Triton's kernels.

They are the random networks of the CPU's tests, beside the CPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core import settings
from tests.runtime.streams.test_chunks import Front
from tests.runtime.streams.test_delays import WHOLE_STEPS, Ahead
from tests.support.fake_device import streams_in_graphs
from tests.support.networks.causal import WRITTEN_LOW, CausalTransformer, Style

INTERPRETED = settings.triton_interpret()
DEVICE, MODE = ("cpu", None) if INTERPRETED else ("cuda", "graph")
IN_GRAPHS = partial(streams_in_graphs, "triton") if INTERPRETED else nullcontext
STEPS, STREAMS = 12, 3
EPSILON = torch.finfo(torch.float32).eps


def beside(model: nn.Module, draw: Callable[[], Tensor], scheme: str, calibration: Any, **options: Any) -> None:
    """A NaN and an infinity, a reset, streams that stand still: the same results, and NaN in the same steps.

    In W8A8 they are the same to the bit. Only a logarithm of a softmax at the end has functions of the card's own."""
    model.eval()
    plain = rt.stream(model, draw(), scheme, calibration, **options)
    with IN_GRAPHS():
        live = rt.stream(model, draw(), scheme, calibration, device=DEVICE, mode=MODE, **options)
        assert "portable" not in live.explain(measure=False).split("\nstages")[0]
        found, wanted = [], []
        for t in range(STEPS):
            x = draw()
            some = torch.randperm(STREAMS)[: 1 + t % 2] if t % 4 == 3 else None
            x = x if some is None else x[: len(some)].contiguous()
            if t in (2, 7):
                x.view(-1)[int(torch.randint(x.numel(), ()))] = float("nan") if t == 2 else float("inf")
            if t == 5:
                plain.reset([1]), live.reset([1])
            want, got = plain.step(x, streams=some), live.step(x.to(DEVICE), streams=some).cpu()
            assert got.shape == want.shape and torch.equal(got.isnan(), want.isnan()), t
            assert torch.equal(got.isinf(), want.isinf()), t
            found.append(got.nan_to_num(0.0, 0.0, 0.0).flatten())
            wanted.append(want.nan_to_num(0.0, 0.0, 0.0).flatten())
    got, want = torch.cat(found), torch.cat(wanted)
    apart, rms = (got - want).abs(), float(want.square().mean().sqrt())
    if scheme == "float32":
        assert float(apart.max()) < 1e-4 * max(rms, 1.0)
    elif "log" in live.explain(measure=False):
        assert float(apart.max()) <= 4 * EPSILON * float(want.abs().max())
    else:
        assert torch.equal(got, want)


def seeded() -> random.Random:
    """Another network in each run, which says its number."""
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return random.Random(seed)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_results_that_come_late(scheme: str) -> None:
    model = Ahead(seeded())
    time = 1 if model.time_first else 2
    calibration = None if scheme == "float32" else [model.windows(8, 60)]
    beside(model, lambda: model.windows(STREAMS).select(time, 0).contiguous(), scheme, calibration, delay=model.ahead)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("kind", ["late", "strided"])
def test_several_rows_a_step(kind: str, scheme: str) -> None:
    rng = seeded()
    if kind == "late":
        late = Ahead(rng, WHOLE_STEPS)
        calibration = None if scheme == "float32" else [late.windows(8, 60)]
        beside(late, lambda: late.windows(STREAMS, 2), scheme, calibration, delay=late.ahead)
        return
    front = Front(rng)
    shape = (STREAMS, front.rows, 5) if front.time_first else (STREAMS, 5, front.rows)
    windows = [front.window([torch.randn(shape) for _ in range(15)])] if scheme == "w8a8" else None
    beside(front, lambda: torch.randn(shape), scheme, windows)


@pytest.mark.parametrize("attention", WRITTEN_LOW)
def test_masks_that_are_written_out(attention: str) -> None:
    """With ALiBi by the number of a key, as BLOOM has it."""
    style = replace(Style.random(seeded().randrange(1000)), attention=attention, bias="keys", layers=1, head_dim=4)
    beside(CausalTransformer(style), lambda: torch.randn(STREAMS, 5), "float32", None, context=16)

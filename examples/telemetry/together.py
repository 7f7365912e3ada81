"""Tens of channels in one call: the forecaster as one stream each, the autoencoder as one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import rtaccel as rt
from examples._shared.timing import p99_us, per_call_us
from examples.telemetry.channels import F32, F64, WIDTH, Channel
from examples.telemetry.models import SEQUENCE, SPAN, Autoencoder, Forecaster, Transformer, Unusual, windows


def forecasts(live: rt.StreamModel, series: Sequence[F32]) -> list[F64]:
    """Absolute errors of the next value, [time] each: as many channels as the stream has, all of them in one call per time step.
    The streams of series that have ended stand still."""
    live.reset()
    errors = [np.zeros(len(one)) for one in series]
    said = np.zeros(len(series), np.float32)
    for t in range(max(map(len, series))):
        here = [i for i, one in enumerate(series) if t < len(one)]
        rows = np.stack([series[i][t] for i in here])
        if t:
            for i, value in zip(here, rows[:, 0]):
                errors[i][t] = abs(float(value) - said[i])
        x = torch.from_numpy(rows)
        said[here] = (live.step(x) if len(here) == len(series) else live.step(x, streams=here))[:, 0].numpy()
    return errors


def reconstructions(model: Any, values: torch.Tensor) -> F64:
    """Mean squared error of each window, [n]; of a model that gives two reconstructions, the mean of both."""
    with torch.no_grad():
        made = model(values)
        both = made if isinstance(made, tuple) else (made,)
        return np.mean([(y - values).square().mean(1).numpy() for y in both], axis=0).astype(np.float64)


def distances(fast: Any, seen: tuple[torch.Tensor, torch.Tensor], values: F32) -> F64:
    """How unusual each window of a channel is, [n]; those before the first whole one count as that. fast: `Unusual`, compiled;
    seen: what that channel's training showed."""
    x = windows(values)
    mean, inverse = (part.expand(len(x), *part.shape[1:]).contiguous() for part in seen)
    found = np.asarray(fast(x, mean, inverse), np.float64)
    found[: SPAN - 1] = found[min(SPAN, len(found)) - 1]
    return found


def calibration(channels: Sequence[Channel]) -> list[torch.Tensor]:
    """Windows of training for int8, [n, 100, 55]."""
    parts = [c.train[at : at + SEQUENCE] for c in channels for at in range(0, len(c.train) - SEQUENCE, SEQUENCE)]
    return [torch.from_numpy(np.stack(parts))]


@dataclass(frozen=True)
class Together:
    """us: of one call for all channels; p99_us: of the streamed forecaster. different: the largest difference of a channel to the
    same one alone."""

    channels: int
    us: dict[str, float]
    different: float
    p99_us: float


def together(
    forecaster: Forecaster,
    autoencoder: Autoencoder,
    transformer: Transformer,
    channels: Sequence[Channel],
    count: int,
    quick: bool,
) -> Together:
    """So many channels: those of the data from several rows on. Eager PyTorch takes turns with rtaccel."""
    rng = np.random.default_rng(0)
    chosen = [channels[i % len(channels)] for i in range(count)]
    begins = [int(rng.integers(0, len(c.test) - 60)) for c in chosen]
    x = torch.from_numpy(
        np.stack([c.test[at : at + 60] for c, at in zip(chosen, begins)], axis=1).copy()
    )  # [60, count, 55]
    live, alone = (rt.stream(forecaster, x[0, :n].contiguous()) for n in (count, 1))
    together = torch.stack([live.step(step) for step in x])
    different = 0.0
    for i in range(0, count, max(count // 8, 1)):
        alone.reset()
        own = torch.stack([alone.step(step[i : i + 1].contiguous()) for step in x])
        different = max(different, float((own[:, 0] - together[:, i]).abs().max()))
    fast = rt.compile(autoencoder, (torch.zeros(count, SPAN),))
    int8 = rt.stream(forecaster, x[0].contiguous(), "w8a8", calibration=calibration(channels))
    step, spans, y = x[0].contiguous(), x[:SPAN, :, 0].t().contiguous(), torch.empty(count, 1)
    unusual = Unusual().eval()
    seen = [unusual.seen(c.train[:, 0]) for c in channels]
    asked = spans, *(torch.cat([seen[i % len(channels)][k] for i in range(count)]) for k in (0, 1))
    past = torch.zeros(1, count, forecaster.memory.hidden_size)

    def eager_step() -> None:
        forecaster.head(forecaster.memory(step[:, None], past)[0])

    calls: dict[str, Any] = {
        "forecaster, rt.stream": live.bind(step, out=y),
        "forecaster, rt.stream, W8A8": int8.bind(step, out=torch.empty(count, 1)),
        "forecaster, PyTorch": eager_step,
        "autoencoder, rt.compile": fast.bind(spans, out=torch.empty(count, SPAN)),
        "autoencoder, PyTorch": lambda: autoencoder(spans),
        "statistics, rt.compile": rt.compile(unusual, asked).bind(*asked, out=torch.empty(count)),
        "statistics, PyTorch": lambda: unusual(*asked),
        "transformer, PyTorch": lambda: transformer(spans),
    }
    best = dict.fromkeys(calls, float("inf"))
    with torch.no_grad():
        for _ in range(5 if quick else 20):
            for name, call in calls.items():
                best[name] = min(best[name], per_call_us(call, 20, 1)[0])
    assert step.shape[1] == WIDTH
    return Together(count, best, different, p99_us(calls["forecaster, rt.stream"]))

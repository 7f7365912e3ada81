"""Another fleet, whose sensors are off: a head learns from engines that failed what the network gets wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import rtaccel as rt
from examples.remaining_life.engines import CAP, F32, WARM_UP, features, targets
from examples.remaining_life.train import samples, train

TRAINED, LEARNED, HELD_OUT = 50, 20, 20
"""Engines that the network saw, engines whose labels come one after the other, and the last ones, which are asked about."""

OFF = 1.5
"""Standard deviations by which each sensor is off, up or down."""


@dataclass(frozen=True)
class Shifted:
    """Errors over all cycles of the held-out engines, in cycles. rmse[k]: after the labels of k engines."""

    clean: float
    model: float
    rmse: list[float]


def _rms(errors: list[F32]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(errors))))) * CAP


def run(engines: list[F32], epochs: int, seed: int = 2) -> Shifted:
    seen = engines[:TRAINED]
    network = train(*samples(seen), seed=0, epochs=epochs)
    rng = np.random.default_rng(seed)
    shift = (rng.choice([-1, 1], seen[0].shape[1]) * OFF * np.concatenate(seen).std(0)).astype(np.float32)
    example = (torch.zeros(1, network.mean.numel()),)
    learner = rt.online.Adapt(rt.compile(rt.online.tapped(network), example), keep=512)
    held_out = [(features(e + shift)[WARM_UP:], targets(len(e))[WARM_UP:]) for e in engines[-HELD_OUT:]]

    def served() -> float:
        return _rms([learner(torch.from_numpy(x)).numpy()[:, 0] - y for x, y in held_out])

    def plain(x: F32) -> F32:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(x))[:, 0])

    found = [served()]
    for engine in engines[TRAINED : TRAINED + LEARNED]:
        x, y = features(engine + shift)[WARM_UP:], targets(len(engine))[WARM_UP:]
        for row in x:  # one flight after the other; the labels are known when the engine has failed
            learner(torch.from_numpy(row[None]))
        first = learner.seq - len(x) + 1
        for i, label in enumerate(y):
            learner.learn([[label]], seq=first + i)
        found.append(served())
    return Shifted(
        _rms([plain(features(e)[WARM_UP:]) - targets(len(e))[WARM_UP:] for e in engines[-HELD_OUT:]]),
        _rms([plain(x) - y for x, y in held_out]),
        found,
    )

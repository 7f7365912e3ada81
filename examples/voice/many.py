"""A thousand lines that talk and pause in shares that are set, and what a step costs with and without the gate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.voice.listen import SECONDS, Lines, Networks
from examples.voice.networks import CHUNK, HOP

F32 = NDArray[np.float32]
SPURT, QUIET_DB, LOUD_DB = 1.2, -75.0, -45.0
"""Mean seconds of a talk spurt, and the noise of a pause: below the gate, or a room that the gate does not close for."""


def calls_of(count: int, steps: int, talking: float, noise_db: float, recording: F32, seed: int) -> Iterator[Tensor]:
    """Chunks [count, 1025], step by step, in the same memory. A line talks a piece of the recording, then pauses, so that it
    talks `talking` of the time in the mean; lengths are exponential, and lines independent."""
    draw = np.random.default_rng(seed)
    size = 10 ** (noise_db / 20)
    room = (draw.normal(size=8 * HOP) * size).astype(np.float32)
    source = recording[: len(recording) // HOP * HOP].reshape(-1, HOP)
    x = np.zeros((count, CHUNK), np.float32)
    here = np.arange(HOP)
    shared = torch.from_numpy(x)
    pause = SPURT / max(talking, 1e-9) - SPURT
    speaks, at = draw.random(count) < talking, draw.integers(0, len(source), count)
    left = draw.exponential(np.where(speaks, SPURT, pause + 1e-9))
    for _ in range(steps):
        over = left <= 0
        speaks[over] = ~speaks[over] if 0 < talking < 1 else speaks[over]
        at[over] = draw.integers(0, len(source), int(over.sum()))
        left[over] = draw.exponential(np.where(speaks[over], SPURT, pause + 1e-9))
        x[:, :-HOP] = x[:, HOP:]
        x[:, -HOP:] = np.where(speaks[:, None], source[at], room[draw.integers(0, 7 * HOP, count)[:, None] + here])
        at, left = (at + 1) % len(source), left - SECONDS
        yield shared


@dataclass(frozen=True)
class Load:
    """Mean us a line and chunk, with the three stages and with all networks everywhere; shares of chunks of the three."""

    talking: float
    cascade_us: float
    full_us: float
    shares: NDArray[np.float64]

    @property
    def real_time(self) -> float:
        """Of one core, that 1,000 lines need."""
        return 1000 * self.cascade_us * 1e-6 / SECONDS

    @property
    def full_real_time(self) -> float:
        return 1000 * self.full_us * 1e-6 / SECONDS


def load(networks: Networks, count: int, steps: int, talking: float, noise_db: float, recording: F32) -> Load:
    """Both on the same chunks, one after the other, so that neither finds what the other left in the caches. Time is that of the
    thread: while others have the core it stands still."""
    three, full = Lines(count, networks), Lines(count, networks, everything=True)
    spent = np.zeros(2)
    for index, lines in enumerate((three, full)):
        for x in calls_of(count, steps, talking, noise_db, recording, seed=1):
            begin = time.thread_time_ns()
            lines.step(x)
            spent[index] += time.thread_time_ns() - begin
    us = spent / 1e3 / (count * steps)
    return Load(talking, float(us[0]), float(us[1]), three.calls / (count * steps))

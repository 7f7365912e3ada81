"""Gate, voice activity, wake word: each listens where the one before it heard something, on any number of lines at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import rtaccel as rt
from examples.voice.networks import CHUNK, FRAMES, HOP, RATE, Encoder, Gate, LogMel, Speech, Word

FLOOR_DB = -62.0
"""Of the gate, relative to full scale: what is below is not looked at."""

PASSED_ON = 0.1
"""Probability of speech from which a chunk goes on to the wake word: below one half, so that the beginning of a word is there."""

WORD = 0.5
SECONDS = HOP / RATE


@dataclass(frozen=True)
class Networks:
    encoder: Encoder
    speech: Speech
    word: Word


class Lines:
    """Listens to `count` lines, a chunk of each at a time. everything: without a gate, all networks on every chunk.

    The gate and the voice activity are a cascade: a line below the gate leaves with 0, and the voice activity of that line
    stays where it is. The wake word makes a step of the lines whose speech is likely; a line that paused starts anew, as
    silence before a word is what its network takes zeros for.
    """

    def __init__(self, count: int, networks: Networks, floor_db: float = FLOOR_DB, everything: bool = False) -> None:
        x = torch.zeros(count, CHUNK)
        self.count, self.everything = count, everything
        self.speech = rt.stream(networks.speech, x, front=networks.encoder)
        self.word = rt.stream(networks.word, x, front=LogMel().eval())
        gate = rt.compile(Gate(floor_db).eval(), (x,))
        self.cascade = rt.Cascade([gate, self.speech], exit=[rt.Exit("value", below=0.0, index=0)], skipped="hold")
        self.paused = np.ones(count, bool)
        self._likely, self._words = torch.zeros(count, 1), torch.zeros(count, 3)
        self._p, self._w = self._likely.numpy()[:, 0], self._words.numpy()
        self._some = torch.zeros(count, CHUNK)  # chunks of the lines that go on, in memory that is there already
        self._steps, self._gone_on = 0, 0
        self._bind(x)

    def _bind(self, x: Tensor) -> None:
        self._x = x
        self._cascade = self.cascade.bind(x, out=self._likely)
        self._all = self.speech.bind(x, out=self._likely), self.word.bind(x, out=self._words)

    @property
    def calls(self) -> NDArray[np.int64]:
        """Chunks that the gate, the voice activity and the wake word computed."""
        if self.everything:
            return np.array([0, self._steps, self._steps], np.int64) * self.count
        return np.array([self._steps * self.count, self.cascade.counts[1], self._gone_on], np.int64)

    def reset(self) -> None:
        """All lines start anew."""
        self.cascade.reset()
        self.word.reset()
        self.paused[:] = True

    def step(self, x: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Chunks [count, 1025] to the probabilities of speech and of the word, [count] each, in memory that the next step
        writes again. Quick where x is the same tensor every time."""
        if x is not self._x:
            self._bind(x)
        self._steps += 1
        if self.everything:
            for network in self._all:
                network()
            return self._p, self._w[:, 0]
        self._cascade()
        on = self._p >= PASSED_ON
        self._w[:] = 0
        going, fresh = np.flatnonzero(on), np.flatnonzero(on & self.paused)
        if len(fresh):
            self.word.reset(fresh.tolist())
        if len(going) == self.count:
            self._all[1]()
        elif len(going):
            lines = torch.from_numpy(going)
            some = torch.index_select(x, 0, lines, out=self._some[: len(going)])
            self._w[going] = self.word.step(some, streams=lines).numpy()
        self.paused = ~on
        self._gone_on += len(going)
        return self._p, self._w[:, 0]


@dataclass(frozen=True)
class Heard:
    """Of one recording: probabilities of each chunk, and the shares of chunks that the three computed."""

    speech: NDArray[np.float32]
    word: NDArray[np.float32]
    shares: NDArray[np.float64]

    def words(self) -> list[float]:
        return word_times(self.word)


def hear(lines: Lines, recording: NDArray[np.float32]) -> Heard:
    """All chunks [n, 1025] of a recording through one line."""
    lines.reset()
    before, found = lines.calls.copy(), []
    x = torch.empty(1, CHUNK)
    for chunk in torch.from_numpy(recording):
        speech, word = lines.step(x.copy_(chunk))
        found.append((float(speech[0]), float(word[0])))
    both = np.array(found, np.float32).reshape(-1, 2)
    return Heard(both[:, 0], both[:, 1], (lines.calls - before) / max(len(recording), 1))


def word_times(word: Sequence[float] | NDArray[np.float32], skip: int = 0, apart: float = 0.5) -> list[float]:
    """Seconds at which the word is heard; what follows within `apart` seconds is the same word. skip: chunks without one."""
    found: list[float] = []
    last = -np.inf
    for index in np.nonzero(np.asarray(word) > WORD)[0]:
        time = float(index + 1) * SECONDS
        if index >= skip and time - last > apart:
            found.append(time)
        if index >= skip:
            last = time
    return found


def full_words(heard: Heard) -> list[float]:
    """Of a network that began with the recording: its first window is not whole."""
    return word_times(heard.word, skip=FRAMES - 1)


class Replay(nn.Module):
    """Probabilities that were computed already, as silero's own function for segments calls a model."""

    def __init__(self, probabilities: NDArray[np.float32]) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.reset_states()

    def reset_states(self) -> None:
        self.at = 0

    def forward(self, chunk: Tensor, rate: int) -> Tensor:
        self.at += 1  # the last chunk may be a part: silero fills it up with zeros, and here it is silent
        return torch.tensor([self.probabilities[self.at - 1] if self.at <= len(self.probabilities) else 0.0])


def segments(probabilities: NDArray[np.float32], samples: int) -> list[tuple[float, float]]:
    """Seconds of speech, by the package's own function."""
    threads = torch.get_num_threads()
    from silero_vad.utils_vad import get_speech_timestamps

    torch.set_num_threads(threads)  # importing it sets them
    found = get_speech_timestamps(torch.zeros(samples), Replay(probabilities), sampling_rate=RATE)
    return [(part["start"] / RATE, part["end"] / RATE) for part in found]

"""What a peer is: how it is named, converted, loaded and called."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, ...]

RECURRENT = ("lstm_a", "lstm_b", "lstm_c", "gru_kws")
LINEAR = ("lin_1x256", "lin_1x1024", "lin_1x4096", "lin_4x1024", "lin_16x1024", "lin_64x1024")
MLPS = ("mlp_ad", "ad01", "policy", "jet")
SPARSE = ("sparse_90", "sparse_95", "blocks_80", "sparse_24")
"""Layers of 1 x 1024 x 1024 with zeros, which peers compute as dense unless they say otherwise."""
MODELS = (*MLPS, *RECURRENT, "tcn", "tcn_step", "cnn_kws", "encoder", *LINEAR, *SPARSE)
"""Names of the networks of `models.py`, here so that a process that needs no torch does not load it."""


class LeftOut(Exception):
    """This runtime does not run this network; the text says why and goes into the report."""


@dataclass(frozen=True)
class Peer:
    """One row of the comparison. kit: the module of this package that converts and runs it.

    only: networks it is for, None for all. Others are not rows of its table at all.
    """

    name: str
    title: str
    kit: str
    variant: str
    only: tuple[str, ...] | None = None
    ours: bool = False
    slow: bool = False
    """Minutes to compile: left out unless asked for by name or with --slow."""

    def fits(self, model: str) -> bool:
        return self.only is None or model in self.only


@dataclass(frozen=True)
class Runner:
    """step: inputs in the order x, states -> outputs in the order y, states. call: one inference on what was fed last.

    forms: other ways to make the same call, by name, timed beside it.
    """

    step: Callable[..., Arrays]
    call: Callable[[], object]
    note: str = ""
    forms: Mapping[str, Callable[[], object]] = field(default_factory=dict)


def round_ns(runner: Runner, calls: int = 10) -> int:
    """A short round; the smallest of several tells which of two ways to load a network is the faster one here."""
    start = time.perf_counter_ns()
    for _ in range(calls):
        runner.call()
    return time.perf_counter_ns() - start


@dataclass(frozen=True)
class Data:
    """Inputs and what torch float32 gives for them.

    x, want: [64, ...], one call each, in order; states: what the first call gets, each later one the states before it.
    calibration: one array [calls, ...] per input, other numbers than x; for a recurrent net along a stream of its own.
    """

    x: np.ndarray
    want: np.ndarray
    states: Arrays
    calibration: Arrays

    def save(self, path: Path) -> None:
        named: dict[str, Any] = {f"state_{i}": a for i, a in enumerate(self.states)}
        named |= {f"calibration_{i}": a for i, a in enumerate(self.calibration)}
        np.savez(path, x=self.x, want=self.want, **named)

    @staticmethod
    def load(path: Path) -> Data:
        with np.load(path, allow_pickle=False) as stored:
            groups: dict[str, list[np.ndarray]] = {"state": [], "calibration": []}
            for kind, found in groups.items():
                while (name := f"{kind}_{len(found)}") in stored.files:
                    found.append(stored[name])
            return Data(stored["x"], stored["want"], tuple(groups["state"]), tuple(groups["calibration"]))


@dataclass(frozen=True)
class Job:
    """One network and the folder that its inputs and converted files lie in."""

    model: str
    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / name

    def data(self) -> Data:
        return Data.load(self.file("data.npz"))


def split(states: Sequence[np.ndarray]) -> Arrays:
    """[layers, 1, H] each -> [1, H] for each layer: the states that the decomposed forms take."""
    return tuple(layer for state in states for layer in state)


def join(parts: Sequence[np.ndarray], states: int) -> Arrays:
    """The inverse of `split` for this many states."""
    layers = len(parts) // states
    return tuple(np.stack(parts[i * layers : (i + 1) * layers]) for i in range(states))


def array_runner(
    write: Sequence[np.ndarray],
    run: Callable[[], object],
    read: Callable[[], Arrays],
    decomposed_states: int = 0,
    note: str = "",
) -> Runner:
    """A runner over buffers that lie still: `write` are the inputs in order, `read` gives the outputs after `run`.

    decomposed_states: how many states are given layer by layer (see `split`), 0 where they are given whole. A form without
    an output of its own (an LSTM's is the last layer's hidden state) has as many outputs as states.
    """

    def step(*inputs: np.ndarray) -> Arrays:
        given = (inputs[0], *split(inputs[1:])) if decomposed_states else inputs
        for buffer, value in zip(write, given, strict=True):
            np.copyto(buffer, value.reshape(buffer.shape))
        run()
        out = tuple(np.array(a) for a in read())
        if not decomposed_states:
            return out
        parts = len(given) - 1
        y = out[0] if len(out) > parts else out[parts // decomposed_states - 1]
        return (y, *join(out[-parts:], decomposed_states))

    return Runner(step, run, note)

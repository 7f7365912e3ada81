"""The inputs that every runtime is checked and calibrated on, and the network's float64 answers: made once per network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bench.peers.base import Arrays, LeftOut, Runner
from bench.zoo.entry import Entry
from bench.zoo.survey import leaves, reference

CALLS = 8
CALIBRATION = 32
"""Calls that static int8 is calibrated on, with other values than those that the error is taken of."""


@dataclass(frozen=True)
class Case:
    """One network with its folder. calls, calibration: inputs of each call; want: outputs of each of `calls`, float64."""

    entry: Entry
    folder: Path
    calls: tuple[Arrays, ...]
    want: tuple[Arrays, ...]
    calibration: tuple[Arrays, ...]

    def file(self, name: str) -> Path:
        return self.folder / name

    def module(self) -> Flattened:
        """The network with its outputs as a flat tuple of tensors, as exporters take it."""
        return Flattened(self.entry.build()[0]).eval()

    def example(self) -> tuple[Tensor, ...]:
        return tensors(self.calls[0])


class Flattened(nn.Module):
    """One output as a tensor, several as a flat tuple; what is no tensor is left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = [leaf for leaf in pytree.tree_leaves(self.model(*inputs)) if isinstance(leaf, Tensor)]
        return tuple(found) if len(found) > 1 else found[0]


def tensors(arrays: Arrays) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(a.copy()) for a in arrays)


def prepare(entry: Entry, folder: Path) -> None:
    """Writes the inputs and answers of a network into its folder."""
    model, inputs = entry.build()
    if not all(isinstance(value, Tensor) for value in inputs):
        raise LeftOut("an input is no tensor")
    draw = torch.Generator().manual_seed(11)
    calls = [tuple(inputs), *(varied(inputs, draw) for _ in range(1, CALLS + CALIBRATION))]
    stored: dict[str, Any] = {}
    for number, given in enumerate(calls):
        stored |= {f"in_{number}_{i}": t.numpy() for i, t in enumerate(given)}
    for number, given in enumerate(calls[:CALLS]):
        want, _ = reference(model, given)
        stored |= {f"out_{number}_{i}": t.double().numpy() for i, t in enumerate(want)}
    np.savez(folder / "case.npz", **stored)


def varied(inputs: Sequence[Tensor], draw: torch.Generator) -> tuple[Tensor, ...]:
    """Floats scaled by 0.6 to 1.4 with noise of a tenth; each integer drawn from 0 to what it is in the example.

    So categories stay within their columns. A single integer, as a length, is kept; so is a single 1.0, as a share of one.
    """

    def one(tensor: Tensor) -> Tensor:
        if tensor.numel() == 1 and tensor == 1:
            return tensor
        if not tensor.is_floating_point():
            part = torch.rand(tensor.shape, generator=draw)
            return tensor if tensor.numel() == 1 else (part * (tensor + 1)).to(tensor.dtype).minimum(tensor)
        scale = 0.6 + 0.8 * torch.rand((), generator=draw)
        return tensor * scale + 0.1 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=draw)

    return tuple(one(t).contiguous() for t in inputs)


def load(entry: Entry, folder: Path) -> Case:
    with np.load(folder / "case.npz", allow_pickle=False) as stored:
        calls = [_group(stored, f"in_{n}") for n in range(CALLS + CALIBRATION)]
        want = tuple(_group(stored, f"out_{n}") for n in range(CALLS))
    return Case(entry, folder, tuple(calls[:CALLS]), want, tuple(calls[CALLS:]))


def _group(stored: Any, name: str) -> Arrays:
    found: list[np.ndarray] = []
    while f"{name}_{len(found)}" in stored.files:
        found.append(stored[f"{name}_{len(found)}"])
    return tuple(found)


def error_of(runner: Runner, case: Case) -> float:
    """The largest over the outputs: rms of the difference to float64 over all calls, over the rms of the answers."""
    results = [real(runner.step(*given)) for given in case.calls]
    if any(len(result) != len(want) for result, want in zip(results, case.want)):
        return float("inf")
    worst = 0.0
    for i in range(len(case.want[0])):
        want = np.stack([one[i] for one in case.want])
        got = np.stack([one[i].astype(np.float64).reshape(case.want[0][i].shape) for one in results])
        rms = np.sqrt(np.square(want).mean()) if want.size else 0.0
        if want.size:
            worst = max(worst, float(np.sqrt(np.square(got - want).mean()) / (rms or 1.0)))
    return worst


def real(arrays: Arrays) -> Arrays:
    """Complex outputs as pairs of real numbers, as the answers are stored."""
    return tuple(np.stack((a.real, a.imag), -1) if np.iscomplexobj(a) else a for a in arrays)


def output_arrays(result: Any) -> Arrays:
    return tuple(t.detach().clone().numpy() for t in leaves(result))

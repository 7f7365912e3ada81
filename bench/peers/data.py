"""Inputs of each network and torch's float32 answers: made once, kept in the cache, read by every runner."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.peers.base import Data, Job
from bench.peers.models import BY_NAME, Model, ad01_windows, flatten

CALLS = 64
CALIBRATION = 256
"""Calls that static int8 is calibrated on: with 64, single outputs beyond the range seen were most of the error."""


def prepare(name: str, folder: Path) -> tuple[Job, str]:
    """The job of a network, and a key that changes with its weights, inputs or shape. Raises LeftOut."""
    model = BY_NAME[name]
    module = model.module()
    job = Job(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = make(model, module)
    digest = hashlib.sha256(repr((model.x, model.states)).encode())
    for tensor in module.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    for array in (data.x, *data.calibration):
        digest.update(np.ascontiguousarray(array).tobytes())
    key = digest.hexdigest()[:16]
    stamp = job.file("data.key")
    if not stamp.exists() or stamp.read_text() != key or not job.file("data.npz").exists():
        data.save(job.file("data.npz"))
        stamp.write_text(key)
    return job, key


def make(model: Model, module: torch.nn.Module) -> Data:
    """Never zeros, but for the states of a stream's first step."""
    draw = torch.Generator().manual_seed(1)
    if model.name == "ad01":
        windows = ad01_windows()
        both = windows[torch.randperm(len(windows), generator=draw)][:, None]
    else:
        calibration = CALIBRATION if math.prod(model.x) <= 16384 else CALLS
        both = torch.randn(CALLS + calibration, *model.x, generator=draw)
    states = tuple(torch.zeros(shape) for shape in model.states)
    want, _ = stream(model, module, both[:CALLS], states)
    _, seen = stream(model, module, both[CALLS:], states)
    return Data(both[:CALLS].numpy(), want.numpy(), tuple(s.numpy() for s in states), tuple(a.numpy() for a in seen))


@torch.no_grad()
def stream(
    model: Model, module: torch.nn.Module, inputs: Tensor, states: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs of each call [calls, ...], and every call's inputs, x and the states that came in, stacked."""
    outputs, given = [], []
    for x in inputs:
        given.append((x, *states))
        y, *after = flatten(module(*model.arguments(x, states)))
        states = tuple(after)
        outputs.append(y)
    return torch.stack(outputs), tuple(torch.stack(column) for column in zip(*given))

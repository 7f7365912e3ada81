"""torch as it is, gradients off for the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers.base import Job, Peer, Runner

PACKAGES = ("torch",)
PEERS = (Peer("torch_eager", "torch eager", "torch_eager", "eager"),)


def load(job: Job, variant: str) -> Runner:
    import torch

    from bench.peers.models import BY_NAME

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    return torch_runner(job, BY_NAME[job.model].module())


def torch_runner(job: Job, module: Callable[..., Any], note: str = "fresh tensors out") -> Runner:
    """A runner of anything that is called as the network is."""
    import torch

    from bench.peers.models import BY_NAME, flatten

    model = BY_NAME[job.model]
    data = job.data()
    x = torch.from_numpy(data.x[0].copy())
    states = tuple(torch.from_numpy(s.copy()) for s in data.states)
    arguments = model.arguments(x, states)

    def call() -> object:
        return module(*arguments)

    def step(*given: np.ndarray) -> tuple[np.ndarray, ...]:
        for tensor, value in zip((x, *states), given):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        return tuple(t.clone().numpy() for t in flatten(call()))

    return Runner(step, call, note)

"""torch.compile at its best form on a CPU: freezing, max-autotune, the C++ wrapper. Minutes to compile on one core.

It takes no LSTM or GRU module, so recurrent networks go in decomposed.
"""

from __future__ import annotations

import os
from typing import Any

from bench.peers.base import RECURRENT, Job, Peer, Runner, array_runner

PACKAGES = ("torch",)
PEERS = (Peer("torch_compile", "torch.compile, max-autotune", "torch_compiled", "max", slow=True),)


def load(job: Job, variant: str) -> Runner:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(job.folder.parent / "inductor"))
    import torch
    from torch._inductor import config

    from bench.peers.decomposed import decomposed, example
    from bench.peers.models import flatten

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    config.freezing = config.cpp_wrapper = True
    config.compile_threads = 1
    module = decomposed(job.model)
    given = example(job.model)
    want = flatten(module(*given))
    note = "fresh tensors out"
    compiled = torch.compile(module, mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)
    if not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(flatten(compiled(*given)), want)):
        torch._dynamo.reset()  # seen with torch 2.13 on gru_kws: errors of 0.1 to 1 from the autotuned matrix product
        compiled = torch.compile(module, dynamic=False, fullgraph=True)
        note += "; not autotuned, which gives wrong numbers here"
    last: list[Any] = []

    def call() -> object:
        return compiled(*given)

    def run() -> None:
        last[:] = flatten(call())

    states = len(job.data().states) if job.model in RECURRENT else 0
    step = array_runner([t.numpy() for t in given], run, lambda: tuple(t.numpy() for t in last), states).step
    return Runner(step, call, note)

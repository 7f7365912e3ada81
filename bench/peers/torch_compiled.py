"""torch.compile at its best form on a CPU: freezing, max-autotune, the C++ wrapper. Minutes to compile on one core."""

from __future__ import annotations

import os

from bench.peers.base import Job, Peer, Runner
from bench.peers.torch_eager import torch_runner

PACKAGES = ("torch",)
PEERS = (Peer("torch_compile", "torch.compile, max-autotune", "torch_compiled", "max", slow=True),)


def load(job: Job, variant: str) -> Runner:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(job.folder.parent / "inductor"))
    import torch
    from torch._inductor import config

    from bench.peers.models import BY_NAME

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    model = BY_NAME[job.model]
    config.freezing = True
    config.cpp_wrapper = not model.states  # its wrapper fails on recurrent layers
    config.compile_threads = 1
    compiled = torch.compile(model.module(), mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)
    runner = torch_runner(job, compiled, "C++ wrapper" if config.cpp_wrapper else "Python wrapper")
    runner.call()
    return runner

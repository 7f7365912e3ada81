"""Makes calls of a target for a profiler that watches this process: `python -m rtaccel.cli._profile.loop TARGET`.

After a warm-up, cudaProfilerStart and cudaProfilerStop stand around the calls, so that a profiler which waits for them
(nsys --capture-range=cudaProfilerApi, ncu --profile-from-start off) sees nothing else. Every call and every stage that is
launched from Python is an NVTX range of its name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rtaccel.cli._common import target as _target

WARM_CALLS = 20


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="calls of a target, for a profiler")
    _target.add_target(parser)
    parser.add_argument("--calls", type=int, default=100)
    args = parser.parse_args(words)

    import torch
    from torch.cuda import nvtx

    from rtaccel.runtime.inspection.profile import profile_stages

    target = _target.load_target(args.target)
    fast = _target.compile_target(target, args)
    with torch.no_grad():
        for _ in range(WARM_CALLS):
            fast(*target.inputs)
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        for _ in range(args.calls):
            with nvtx.range("call"):
                fast(*target.inputs)
            torch.cuda.synchronize()
        profile_stages(fast, target.inputs, args.calls, around=nvtx.range)
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()

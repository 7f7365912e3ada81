"""torch.profiler: time of each of torch's operators, and on a GPU of each kernel. Runs on a CPU too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rtaccel.cli._profile.job import Job
from rtaccel.cli._profile.kernels import KernelTime, ordered

REMEDY = "It comes with torch."


def unavailable() -> str | None:
    return None


def run(job: Job) -> list[KernelTime]:
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.no_grad():
        for _ in range(min(job.calls, 20)):
            job.fast(*job.inputs)
        with profile(activities=activities) as found:
            for _ in range(job.calls):
                with record_function("call"):
                    job.fast(*job.inputs)
            if cuda:
                torch.cuda.synchronize()
    return parse(found.key_averages())


def parse(averages: Iterable[Any]) -> list[KernelTime]:
    """`key_averages()`: own time of each event, without what it called. Where kernels ran on a device, theirs alone."""
    events = list(averages)
    device = [e for e in events if e.self_device_time_total > 0 and "cpu" not in str(e.device_type).lower()]
    if device:
        return ordered(KernelTime(e.key, e.count, float(e.self_device_time_total)) for e in device)
    return ordered(
        KernelTime(e.key, e.count, float(e.self_cpu_time_total)) for e in events if e.self_cpu_time_total > 0
    )

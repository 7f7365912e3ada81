"""Proton, Triton's own profiler: time of each kernel by the launch that it came from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

from rtaccel.cli._profile.job import Job, no_cuda
from rtaccel.cli._profile.kernels import KernelTime, merged
from rtaccel.core.errors import FormatError

REMEDY = "Install triton (pip install 'rtaccel[gpu]') on a machine with an NVIDIA GPU."


def unavailable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return no_cuda("Proton")


def run(job: Job) -> list[KernelTime]:
    import torch
    import triton.profiler as proton

    path = job.folder / "calls"
    with torch.no_grad():
        job.fast(*job.inputs)
        proton.start(str(path), context="shadow", data="tree")
        for _ in range(job.calls):
            job.fast(*job.inputs)
        torch.cuda.synchronize()
        proton.finalize()
    return parse(path.with_suffix(".hatchet").read_text(encoding="utf-8"))


def parse(text: str) -> list[KernelTime]:
    """A .hatchet file: a tree of frames with metrics, `time (ns)` and `count` at its leaves, and the devices behind it.

    Raises FormatError for anything else, and for a tree without a time.
    """
    try:
        trees = json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError("proton", f"no JSON ({error})", "a .hatchet file", "Profile with data='tree'.") from error
    roots = trees if isinstance(trees, list) else [trees]
    found = [kernel for root in roots if isinstance(root, dict) and "frame" in root for kernel in _leaves(root)]
    if not found:
        raise FormatError("proton", "a tree without times", "frames with `time (ns)`", "Did any kernel run?")
    return merged(found)


def _leaves(node: dict[str, Any]) -> Iterator[KernelTime]:
    metrics = node.get("metrics", {})
    if "time (ns)" in metrics:
        yield KernelTime(node["frame"]["name"], int(metrics.get("count", 1)), float(metrics["time (ns)"]) / 1e3)
    for child in node.get("children", ()):
        yield from _leaves(child)

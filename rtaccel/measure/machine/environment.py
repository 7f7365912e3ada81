"""A record of the machine and the software: a figure without it means nothing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ISA_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets that kernels choose between, as /proc/cpuinfo spells them."""


def environment() -> dict[str, Any]:
    """CPU, its instruction sets, governor, load, versions, threads and the time; JSON values only, None if not known.

    Nothing is imported for it: torch's thread count and card are recorded where the process has loaded torch.
    """
    cpu = _cpuinfo()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu["model"],
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "isa": cpu["isa"],
        "hypervisor": cpu["hypervisor"],
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("rtaccel", "torch", "numpy", "triton")},
        **_torch_facts(),
    }


def _torch_facts() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return {"torch_threads": None, "gpu": None}
    cuda = torch.cuda.is_initialized()  # asking must not start a CUDA context
    return {"torch_threads": torch.get_num_threads(), "gpu": torch.cuda.get_device_name() if cuda else None}


def _cpuinfo() -> dict[str, Any]:
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "model": fields.get("model name") or platform.processor() or None,
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "hypervisor": "hypervisor" in flags,
    }


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # another system, or not allowed: not known
        return None


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def load_text(record: Mapping[str, Any]) -> str:
    """How busy the machine was, "load 0.4 on 2 cores"; empty where that is not known. It stands beside a verdict."""
    loads, cores = record.get("load_average"), record.get("cores")
    if not loads or not cores:
        return ""
    return f"load {loads[0]:.2g} on {cores} core{'s' * (cores > 1)}"


def describe(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A record as (label, text) rows for people, without what is not known."""
    rows = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        elif isinstance(value, (list, tuple)):
            text = ", ".join(map(str, value))
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = "" if value is None else str(value)
        if text:
            rows.append((key.replace("_", " "), text))
    return rows

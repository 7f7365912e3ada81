"""The native core on the CPU: C++ kernels, each compiled for several instruction sets and chosen here, at run time."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from rtaccel.backends.base import Backend
from rtaccel.core.settings import CPU_ISA


def isas() -> tuple[str, ...]:
    """The instruction sets of this kind of CPU that the native core knows, the preferred ones last.

    portable: any CPU. avx2: with FMA. avxvnni: AVX2 with VEX-encoded vpdpbusd. avx512: F, BW, DQ and VL. avx512vnni: with
    VNNI; avx512bf16 and avx512vbmi: with BF16 or VBMI on top.
    amx: avx512vnni and the int8 tiles, where the kernel lets this process use them.
    neon: every AArch64. neondot: with the dot product of ARMv8.2.
    """
    import rtaccel._native as native

    return tuple(native.isas())


def _unavailable() -> str | None:
    wanted = os.environ.get(CPU_ISA)
    try:
        known = isas()
    except ImportError as error:
        return f"the native core could not be loaded: {error}"
    if wanted and wanted not in known:
        return f"{CPU_ISA}={wanted} names no instruction set; there are {', '.join(known)}"
    return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _facts() -> dict[str, object]:
    import rtaccel._native as native

    return {"cpu": _cpu_name(), "isa": native.isa(), "kernels": len(native.kernels()), "abi": native.abi_version()}


BACKEND = Backend(
    name="cpu",
    rank=10,
    devices=("cpu",),
    unavailable=_unavailable,
    remedy=f"Install rtaccel from a wheel or with a C++ compiler at hand, and unset {CPU_ISA} if it is set.",
    facts=_facts,
)

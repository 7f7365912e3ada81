"""The native core on the CPU: C++ kernels, each compiled for several instruction sets and chosen here, at run time."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from rtaccel.backends.base import Backend
from rtaccel.core.settings import CPU_ISA

_SETS = {
    "x86_64": ("portable", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "avx512vbmi", "amx"),
    "aarch64": ("portable", "neon", "neondot"),
}

ISAS = _SETS.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()), ("portable",))
"""The instruction sets of this kind of CPU that the native core is compiled for, the preferred ones last.

portable: any CPU. avx2: with FMA. avxvnni: AVX2 with VEX-encoded vpdpbusd. avx512: F, BW, DQ and VL. avx512vnni: with
VNNI; avx512bf16 and avx512vbmi: with BF16 or VBMI on top.
amx: avx512vnni and the int8 tiles, where the kernel lets this process use them.
neon: every AArch64. neondot: with the dot product of ARMv8.2."""


def _unavailable() -> str | None:
    wanted = os.environ.get(CPU_ISA)
    if wanted and wanted not in ISAS:
        return f"{CPU_ISA}={wanted} names no instruction set; there are {', '.join(ISAS)}"
    try:
        import rtaccel._native  # noqa: F401
    except ImportError as error:
        return f"the native core could not be loaded: {error}"
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

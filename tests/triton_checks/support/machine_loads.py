"""Wavefronts of the declared kernels in their machine code: what the assembler made of the loads that TTGIR has.

It is compiled without a pipeline, as for TTGIR, for compute capability 9.0. The assembler joins loads of the same address, and
layouts of tensor cores are seen, which TTGIR has no threads for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from rtaccel.kernels._gpu.triton_aot import text_of
from tests.triton_checks.sass import loads
from tests.triton_checks.support import launches
from tests.triton_checks.support.moved import declared_as, programs_of, tables_of, without_pipeline
from tests.triton_checks.ttir.wavefronts import Counted

WAITS = "it waits for other programs, which are not there"
NOT_RUN = {"_float32_read_": WAITS, "mlp_partition": WAITS}
"""A part of a name -> why its machine code is not run."""

LOST = {
    "_split": "the last program to arrive reads the parts of the others; which one that is an atomic says",
    "cached_attention_": "where the newest step lies is a number in memory",
    "_lengths_": "how many steps a stream has is a number in memory",
}
"""A part of a name -> why the addresses of some loads are not known."""


@dataclass(frozen=True)
class Found:
    """loads: by argument. lost: how many loads of unknown addresses were run."""

    loads: dict[str, Counted]
    lost: int


def reason(name: str, of: dict[str, str]) -> str:
    return next((why for part, why in of.items() if part in name), "")


@functools.cache
def found(name: str) -> Found | None:
    """None for what is not run."""
    if reason(name, NOT_RUN):
        return None
    launch, spec = launches.launch_of(declared_as(name)), declared_as(name).spec
    assert launch is not None, name
    text = text_of(without_pipeline(name).asm["cubin"])
    tables = {argument: numbers.tobytes() for argument, numbers in tables_of(launch).items()}
    programs = programs_of(launch.grid)
    return Found(*loads.counted(text, spec.tiling.num_warps, spec.signature, launch.scalars, programs, tables))

"""Compiling Triton kernels for every architecture on a machine without a GPU, and reading what came out.

`specializations()` finds what the kernel files declare, `compile_for` compiles one of them to a cubin and counts
its registers, stack, shared memory and instructions, and `violations` compares that with what is allowed.
A new kernel file is picked up by its name (`triton_*.py`) and its function `specializations`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rtaccel.backends.triton import CHECKED_ARCHITECTURES
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels._gpu.cubin_store import Cubin
from rtaccel.kernels._gpu.triton_launch import spec_key
from rtaccel.kernels._gpu.triton_spec import Specialisation

ARCHITECTURES = CHECKED_ARCHITECTURES

_MNEMONIC = re.compile(r"^\s*/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Footprint:
    """What one compiled kernel costs, per thread or per program, read from its cubin.

    stack_bytes and local_bytes: memory of a thread outside its registers. spills: loads and stores of it.
    shared_bytes: static and dynamic shared memory of a program. instructions: mnemonic -> occurrences in the code.
    """

    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    instructions: Mapping[str, int]

    def count(self, pattern: str) -> int:
        """Instructions whose mnemonic starts with the pattern (a regular expression)."""
        compiled = re.compile(pattern)
        return sum(n for mnemonic, n in self.instructions.items() if compiled.match(mnemonic))

    @property
    def total(self) -> int:
        return sum(self.instructions.values())

    @property
    def spills(self) -> int:
        return self.count(r"LDL|STL")

    @property
    def barriers(self) -> int:
        return self.count(r"BAR\b")


def each_specialization() -> Iterator[Specialisation]:
    """Every form that a file in the folder `triton/` of an operator declares, each as it is declared."""
    kernels = importlib.import_module("rtaccel.kernels")
    for folder in pkgutil.iter_modules(kernels.__path__):
        if not folder.ispkg or folder.name.startswith("_"):
            continue
        name = f"{kernels.__name__}.{folder.name}.triton"
        if importlib.util.find_spec(name) is None:
            continue
        for file in pkgutil.iter_modules(importlib.import_module(name).__path__):
            module = importlib.import_module(f"{name}.{file.name}")
            if hasattr(module, "specializations"):
                yield from module.specializations()


@cache
def specializations() -> tuple[Specialisation, ...]:
    """Those of `each_specialization`. They take seconds: some are of layers of 4096 x 4096."""
    return tuple(each_specialization())


def _tool(name: str, *arguments: str) -> str:
    """Output of one of the binary tools that triton ships (cuobjdump, nvdisasm)."""
    path = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def _read_by_tools(cubin: bytes) -> tuple[str, str]:
    """What the tools say of its resources, and its code as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _tool("cuobjdump", "--dump-resource-usage", str(path)), _tool("nvdisasm", "-c", str(path))


def text_of(cubin: bytes) -> str:
    """Machine code as text."""
    return _read_by_tools(cubin)[1]


def code_of(spec: Specialisation, capability: int) -> str:
    """Its machine code as text, compiled for a compute capability."""
    return text_of(compile_kernel(spec, capability).asm["cubin"])


def read_cubin(cubin: bytes, shared_bytes: int) -> Footprint:
    """Counts of one kernel. shared_bytes comes from the compiler, as the cubin holds only the static part."""
    used, code = _read_by_tools(cubin)
    resources = _RESOURCES.search(used)
    instructions = Counter(_MNEMONIC.findall(code))
    instructions.pop("NOP", None)
    if resources is None or not instructions:
        raise UnsupportedProblem("read_cubin", "a cubin the tools cannot read", "one kernel", "Update triton.")
    registers, stack, _, local = map(int, resources.groups())
    return Footprint(registers, stack, local, shared_bytes, dict(instructions))


def compile_kernel(spec: Specialisation, capability: int) -> Any:
    """triton's CompiledKernel for a compute capability, with pointers promised to be 16-byte aligned, as torch allocates them.

    Needs a process without TRITON_INTERPRET=1, which turns kernels into plain Python.
    """
    if not isinstance(spec.kernel, triton.JITFunction):
        raise UnsupportedProblem(
            "compile_for", f"{spec.name}, an interpreted function", "a compiled one", "Unset TRITON_INTERPRET."
        )
    names = list(spec.kernel.arg_names)
    source = ASTSource(
        fn=spec.kernel,
        signature={name: spec.signature.get(name, "constexpr") for name in names},
        constexprs=dict(spec.constants),
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name, kind in spec.signature.items()
            if kind.startswith("*")
        },
    )
    try:
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=spec.options)
    except Exception as error:  # of many types: the compiler's, ptxas's, Python's own inside a kernel
        raise UnsupportedProblem(
            "compile_for",
            f"{spec.name} on sm_{capability}",
            "a kernel that triton compiles",
            f"{type(error).__name__}: {str(error)[:300]}",
        ) from error


def compile_for(spec: Specialisation, capability: int) -> Footprint:
    """What a specialization costs when compiled for a compute capability."""
    kernel = compile_kernel(spec, capability)
    return read_cubin(kernel.asm["cubin"], kernel.metadata.shared)


def build(spec: Specialisation, capability: int) -> Cubin:
    """A specialization compiled ahead, to be launched without triton's JIT."""
    kernel = compile_kernel(spec, capability)
    about = kernel.metadata
    return Cubin(
        key=spec_key(spec),
        capability=capability,
        name=spec.name,
        entry=about.name,
        parameters=tuple((name, spec.signature[name]) for name in spec.kernel.arg_names if name in spec.signature),
        num_warps=about.num_warps,
        shared_bytes=about.shared,
        global_scratch_bytes=getattr(about, "global_scratch_size", 0) or 0,
        profile_scratch_bytes=getattr(about, "profile_scratch_size", 0) or 0,
        cooperative=bool(getattr(about, "launch_cooperative_grid", False)),
        built_with=f"triton {triton.__version__}",
        code=kernel.asm["cubin"],
    )


@dataclass(frozen=True)
class Allowed:
    """What the code of one specialization cost when it was last written down, on one architecture with one triton."""

    registers: int
    shared_bytes: int
    barriers: int
    instructions: int


def violations(spec: Specialisation, capability: int, found: Footprint, allowed: Allowed | None) -> list[str]:
    """What the compiled code does that it may not, one sentence each; empty when all holds.

    Never: stack, local memory, spills. Against what is written down: 8 registers more, a twentieth more instructions, no more
    shared memory and no more barriers, one of which betrays a layout conversion.
    """
    where = f"{spec.name} on sm_{capability}"
    if allowed is None:
        return [f"{where}: is not in the budget file; run tests/triton_checks/write_budgets.py"]
    limits = (
        ("registers", found.registers, allowed.registers + 8),
        ("stack bytes", found.stack_bytes, 0),
        ("local bytes", found.local_bytes, 0),
        ("spills", found.spills, 0),
        ("shared bytes", found.shared_bytes, allowed.shared_bytes),
        ("barriers", found.barriers, allowed.barriers),
        ("instructions", found.total, allowed.instructions * 21 // 20),
    )
    broken = [f"{value} {what}, at most {most}" for what, value, most in limits if value > most]
    if spec.demands is not None:
        broken += [f"no {pattern} instruction" for pattern in spec.demands.requires if not found.count(pattern)]
        broken += [
            f"{found.count(pattern)} {pattern} instructions, none allowed"
            for pattern in spec.demands.forbids
            if found.count(pattern)
        ]
        broken += [
            f"{found.count(pattern)} {pattern} instructions, not one"
            for pattern in spec.demands.once
            if found.count(pattern) != 1
        ]
    return [f"{where}: {text}" for text in broken]

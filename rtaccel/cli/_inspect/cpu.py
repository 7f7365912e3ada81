"""A C++ kernel's machine code, from the object files of a build: instructions by kind, and how wide its vectors are."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtaccel.cli._inspect.mix import mix
from rtaccel.core.errors import BackendUnavailable
from rtaccel.core.registry import Impl

ROOT = Path(__file__).resolve().parents[3]

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}

_LINE = re.compile(r"^\s+[0-9a-f]+:\t(?:[0-9a-f]{2,8} )+\s*\t([a-z][\w.]*)\s*(.*)$", re.MULTILINE)
_VECTOR = re.compile(r"%([xyz]mm)\d|\b([vq])\d+\.\d*[bhsd]")


@dataclass(frozen=True)
class Disassembled:
    """Of all functions of the source file, set-up included. vectors: register kind -> instructions that name it."""

    name: str
    object_file: str
    instructions: dict[str, int]
    kinds: dict[str, int]
    vectors: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def object_file(impl: Impl, root: Path = ROOT) -> Path:
    """build/*/CMakeFiles/.../<op>/cpu_[<idea>_]<isa>.cc.o, the newest. Raises BackendUnavailable where there is none."""
    idea, _, isa = impl.name.rpartition("_")
    stems = [impl.name] if idea == "" else [f"{idea}_kernel_{isa}", impl.name]
    found = [p for stem in stems for p in root.glob(f"build/*/CMakeFiles/**/kernels/{impl.op}/{stem}.cc.o")]
    found = [path for path in found if _of_this_machine(path)]
    if not found:
        raise BackendUnavailable(
            "inspect", f"{impl.op}/{impl.name}", f"its object file below {root / 'build'}, as a build from source leaves it",
            "Installed libraries have no names of functions: clone the sources and run `make test`.",
        )  # fmt: skip
    return max(found, key=lambda path: path.stat().st_mtime)


def _of_this_machine(path: Path) -> bool:
    """Not one of a cross build: e_machine in the header of an ELF file."""
    with path.open("rb") as file:
        header = file.read(20)
    return int.from_bytes(header[18:20], "little") == _ELF_MACHINES.get(platform.machine())


def inspect_cpu(impl: Impl) -> Disassembled:
    """Raises BackendUnavailable where objdump or the object file is missing."""
    if shutil.which("objdump") is None:
        raise BackendUnavailable("inspect", f"{impl.op}/{impl.name}", "objdump on the PATH", "Install binutils.")
    path = object_file(impl)
    text = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    return disassembled(f"{impl.op}/{impl.name}", path, text)


def disassembled(name: str, path: Path, text: str) -> Disassembled:
    """From the output of `objdump -d`."""
    instructions: Counter[str] = Counter()
    vectors: Counter[str] = Counter()
    for mnemonic, operands in _LINE.findall(text):
        if mnemonic.startswith(("nop", "int3", "data16", "cs")):
            continue
        instructions[mnemonic] += 1
        if registers := [x or y for x, y in _VECTOR.findall(operands)]:
            vectors[max(registers)] += 1  # zmm over ymm over xmm: the widest
    return Disassembled(name, str(path), dict(instructions), mix(instructions, "CPU"), dict(vectors))


def describe(found: Disassembled) -> list[tuple[str, str]]:
    total = sum(found.instructions.values())
    rows = [("kernel", found.name), ("object file", found.object_file)]
    rows.append(("instructions", f"{total:,} in the code of all its functions, set-up included"))
    rows += [("", f"{count:6,}  {kind}") for kind, count in found.kinds.items()]
    widths = {"zmm": "512 bits", "ymm": "256 bits", "xmm": "128 bits", "v": "128 bits", "q": "128 bits"}
    for kind, count in sorted(found.vectors.items(), reverse=True):
        rows.append(("vectors", f"{count:6,}  name {kind} registers, {widths[kind]}"))
    return rows

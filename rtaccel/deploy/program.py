"""What a program with a packed library weighs, by its linker's map, and the memory that it asks for."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_PLACED = re.compile(r"^ (?:\.[\w.]+|COMMON)?\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)\s+(\S.*)$")
_KEPT = (".text", ".rodata", ".data", ".bss", ".tbss", ".tdata", ".eh_frame", ".init_array", ".gcc_except_table")


def memory_bytes(program: Path, model: Path, isa: Sequence[str]) -> int | None:
    """The most that the model takes with any of the sets; None where one of them does not run here."""
    most = 0
    for name in isa:
        try:
            done = subprocess.run(
                [program, model], capture_output=True, text=True, check=False, timeout=60,
                env={**os.environ, "RTACCEL_CPU_ISA": name},
            )  # fmt: skip
        except OSError:  # of another processor
            return None
        if done.returncode != 0:
            return None
        most = max(most, int(done.stdout))
    return most


def sections(map_file: Path) -> tuple[tuple[str, int], ...]:
    """(source, bytes) of what a linker kept, the largest first; sources of one name together."""
    text = map_file.read_text(errors="replace")
    _, _, placed = text.partition("Linker script and memory map")
    sizes: Counter[str] = Counter()
    within = ""
    joined = re.sub(r"^( \.\S+)\n\s+(?=0x)", r"\1 ", placed, flags=re.MULTILINE)  # long names have a line of their own
    for line in joined.splitlines():
        if line.startswith("."):
            within = line.split()[0]
        match = _PLACED.match(line)
        if match and int(match[1], 16) and int(match[2], 16) and within.startswith(_KEPT):
            sizes[_source(match[3])] += int(match[2], 16)
    return tuple(sizes.most_common())


def _source(file: str) -> str:
    name = file.split("CMakeFiles/")[-1]
    for start in ("kernels/", "native/"):
        if start in name:
            return start + name.split(start, 1)[1].removesuffix(".o")
    return "embedded model" if "embedded" in name else "C library and start"

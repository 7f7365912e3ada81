"""What `rtaccel pack --isa wasm` writes: a module of WebAssembly that imports nothing, and the JavaScript that runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem

ISA = "wasm"
FAMILY = {ISA: ISA}
"""128-bit vectors; no set beneath it."""
RUNTIME = "rtaccel.mjs"
_WEB = Path(__file__).parent / "web"
_KEPT = re.compile(r"^\s*[0-9a-f-]+\s+[0-9a-f]+\s+([0-9a-f]+)\s{9}(\S.*?):\(")
_MEASURE = """
import {{ readFileSync }} from "node:fs";
import {{ Model }} from "{runtime}";
const file = {file};
const model = await Model.load(readFileSync("{module}"), {{ file: new Uint8Array(readFileSync(file)), memoryBytes: {most} }});
console.log(model.neededBytes);
"""


def compiler(*, threads: bool, own_compiler: bool) -> str:
    """Emscripten's wrapper of CMake. Raises UnsupportedProblem for what a page has not, BackendUnavailable without it."""
    if threads or own_compiler:
        what = "threads" if threads else "a compiler or toolchain"
        raise UnsupportedProblem("pack", f"{what} with isa wasm", "one thread, Emscripten", "Leave it out.")
    found = shutil.which("emcmake")
    if found is None:
        raise BackendUnavailable(
            "pack", "no emcmake", "Emscripten 3.1 or later", "apt-get install emscripten, or emsdk's environment"
        )
    return found


def write(
    folder: Path, label: str, module: Path, *, embedded: Path | None, file: Path, bound: int
) -> tuple[tuple[str, ...], int, bool]:
    """Into the folder, as (files, bytes of memory, whether they were measured): in Node, where it is."""
    shutil.copyfile(module, folder / module.name)
    shutil.copyfile(_WEB / RUNTIME, folder / RUNTIME)
    found = _measured(folder, module, file, bound)
    inside = f'{{ name: "{label}_model", bytes: {embedded.stat().st_size} }}' if embedded else "null"
    memory = found or bound
    lines = [
        f"// {label}: written by rtaccel pack.",
        f'import {{ Model }} from "./{RUNTIME}";',
        f'export {{ Model, ModelError, bytesOf }} from "./{RUNTIME}";',
        f"const embedded = {inside};",
        f"export const MEMORY_BYTES = {memory};",
        "",
        f"/** file: the bytes of {file.name}{', null as they are within the module' if embedded else ''}."
        f" samples: of a step. module: where {label}.wasm is, or its bytes. */",
        f'export const open = (file = null, {{ samples = null, module = new URL("{label}.wasm", import.meta.url) }} = {{}}) =>',
        "  Model.load(module, { file, embedded, memoryBytes: MEMORY_BYTES, samples });",
        "",
    ]
    (folder / f"{label}.mjs").write_text("\n".join(lines))
    return (module.name, f"{label}.mjs", RUNTIME), memory, found is not None


def _measured(folder: Path, module: Path, file: Path, most: int) -> int | None:
    node = shutil.which("node")
    if node is None:
        return None
    script = _MEASURE.format(
        runtime=(folder / RUNTIME).resolve().as_uri(), module=module, file=repr(str(file.resolve())), most=most
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=False, timeout=60
    )
    return int(done.stdout) if done.returncode == 0 else None


def sections(map_file: Path) -> tuple[tuple[str, int], ...]:
    """(source, bytes) of what the linker of WebAssembly kept, the largest first."""
    sizes: Counter[str] = Counter()
    for line in map_file.read_text(errors="replace").splitlines():
        match = _KEPT.match(line)
        if match:
            sizes[_source(match[2])] += int(match[1], 16)
    return tuple(sizes.most_common())


def _source(file: str) -> str:
    for start in ("kernels/", "native/"):
        if start in file:
            return start + file.rsplit(start, 1)[1].removesuffix(".o")
    return "embedded model" if "embedded" in file else "C library and start"

"""`rtaccel pack`: a static library with one model's kernels alone, for programs in C.

The sources of the core are compiled again, for the instruction sets asked for, with everything left out that the model's plan
does not need. CMake and a C++ compiler do the work.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rtaccel._native as native
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.deploy import pack_wasm, program, wanted
from rtaccel.deploy.load import load
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.deploy.reading import PlanRead, StageRead, read_plan

X86 = {
    "portable": "portable",
    "avx2": "portable",
    "avxvnni": "avx2",
    "avx512": "avx2",
    "avx512vnni": "avx512",
    "avx512bf16": "avx512vnni",
    "avx512vbmi": "avx512vnni",
    "amx": "avx512vnni",
}
ARM = {"portable": "portable", "neon": "portable", "neondot": "neon"}
"""Instruction set -> the one that it includes, as kernels/_core/isa.def has them."""
HANDS_ON = {"amx": "avx512vnni"}
"""Instruction set -> the one whose kernels take what its own leave (kernels/_simd/amx.h)."""


@dataclass(frozen=True)
class Packed:
    """What was written. kernels: (operator, kernel) that are in it. memory_bytes: what `rta_model_within` needs, measured
    where measured is true, else more than enough. program_bytes: of a stripped program that opens the model and steps, without
    the model's file. sections: (source, bytes) of that, the largest first."""

    folder: Path
    name: str
    files: tuple[str, ...]
    archive_bytes: int
    kernels: tuple[tuple[str, str], ...]
    memory_bytes: int
    measured: bool
    program_bytes: int
    sections: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        kernels = ", ".join(f"{op}/{kernel}" for op, kernel in self.kernels)
        known = "" if self.measured else " at most: no processor for it here"
        return "\n".join(
            [
                f"{self.folder}: {', '.join(self.files)}",
                f"kernels: {kernels}",
                f"memory of the model: {self.memory_bytes} B{known}",
                *self._outcome(),
                *(f"{size:>9} B  {source}" for source, size in self.sections),
            ]
        )

    def _outcome(self) -> list[str]:
        if f"{self.name}.wasm" in self.files:
            return [f"{self.name}.wasm, without the model's file: {self.program_bytes} B, of which"]
        return [
            f"lib{self.name}.a {self.archive_bytes} B before the linker drops what a program does not use",
            f"a program with it, stripped, without the model's file: {self.program_bytes} B, of which",
        ]


def pack(
    model: str | Path,
    out: str | Path,
    isa: Sequence[str] = ("avx2",),
    *,
    name: str | None = None,
    embed: bool = False,
    trim: bool = True,
    threads: bool = False,
    compiler: str | None = None,
    toolchain: str | Path | None = None,
) -> Packed:
    """Writes a folder with lib<name>.a, its headers, <name>.pc and <name>Config.cmake for one model from `rt.save`.

    The library needs no run-time library of C++ and no heap: `rta_model_within` opens the model in memory of the caller.

    isa: instruction sets; with several the program takes the best at its start. "wasm" is one by itself: then the folder has
    <name>.wasm, with vectors of 128 bits, and <name>.mjs, which runs it in a page or in Node.
    embed: the file itself goes into .rodata.
    trim: what the plan does not need is left out: kernels, tile widths, activation functions, and with a bounded batch the forms
    for more rows. Such a library opens this model with other weights, and refuses others. threads: a model may be opened with
    several. toolchain: a toolchain file of CMake, to compile for another machine.

    Raises FormatError for a file that is no model or a name that is none in C, UnsupportedProblem for an unknown set or a stage
    without a kernel in those, BackendUnavailable where there is no CMake, no compiler, or no sources; for "wasm" no Emscripten.
    """
    file, folder = Path(model), Path(out)
    loaded = load(file)
    plan = read_plan(file.read_bytes())
    label = re.sub(r"\W", "_", file.stem, flags=re.ASCII) if name is None else name
    if not re.fullmatch(r"[A-Za-z_]\w*", label, re.ASCII):
        raise FormatError("pack", f"name {label!r}", "an identifier of C", "Pass name=.")
    if toolchain is not None and not Path(toolchain).is_file():
        raise FormatError("pack", f"toolchain {toolchain}", "a toolchain file of CMake", "There is no such file.")
    if compiler is not None and shutil.which(compiler) is None:
        raise BackendUnavailable("pack", f"compiler {compiler}", "a C++ compiler", "There is no such program.")
    family = _family(isa)
    chosen = _chosen(plan, isa, family)
    web = family is pack_wasm.FAMILY
    own_compiler = compiler is not None or toolchain is not None
    before = [pack_wasm.compiler(threads=threads, own_compiler=own_compiler)] if web else []
    sources = source_root()
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        raise BackendUnavailable("pack", "no cmake", "CMake 3.26 and a C++ compiler", "pip install cmake")
    with whole_file.built_into("pack", folder), tempfile.TemporaryDirectory(prefix="rtaccel-pack-") as temporary:
        work = Path(temporary)
        (work / "wanted.h").write_text(
            wanted.header(plan, chosen, threads, _kernels_of_sets(chosen, family))
            if trim
            else wanted.everything(threads=not web)
        )
        ops = sorted({op for op, _, _ in chosen}) if trim else sorted({op for op, _, _ in native.kernels()})
        lines = [f'set(PACK_NAME "{label}")', f'set(PACK_OPS "{";".join(ops)}")', f'set(PACK_WANTED "{work}/wanted.h")']
        if embed:
            lines += [f'set(PACK_EMBED "{file.resolve()}")', f"set(PACK_EMBED_BYTES {file.stat().st_size})"]
        (work / "pack.cmake").write_text("\n".join(lines) + "\n")
        sets = _sets(chosen, isa, family)
        options = [f"-DRTACCEL_PACK={work}/pack.cmake", f"-DRTACCEL_ONLY={';'.join(sets)}"]
        options += [f"-DCMAKE_TOOLCHAIN_FILE={Path(toolchain).resolve()}"] if toolchain else []
        options += [f"-DCMAKE_CXX_COMPILER={compiler}"] if compiler else []
        build, targets = work / "build", ["pack"] if web else ["pack", "probe"]
        _run([*before, cmake, "-S", str(sources), "-B", str(build), *options])
        _run([cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", *targets])
        bound = plan.weight_bound + 4 * int(loaded._native.scratch_bytes) + 4096 * (8 + len(plan.stages))
        kernels = tuple(dict.fromkeys((op, kernel) for op, kernel, _ in chosen))
        if web:
            module, own = build / f"{label}.wasm", file if embed else None
            written, memory, measured = pack_wasm.write(folder, label, module, embedded=own, file=file, bound=bound)
            size = module.stat().st_size
            sections = tuple(part for part in pack_wasm.sections(build / "probe.map") if part[0] != "embedded model")
            return Packed(
                folder, label, written, size, kernels, memory, measured,
                size - (file.stat().st_size if embed else 0), sections,
            )  # fmt: skip
        archive = folder / f"lib{label}.a"
        shutil.copyfile(build / archive.name, archive)
        found = program.memory_bytes(build / "probe", file, isa)
        sections = program.sections(build / "probe.map")
        program_bytes = (build / "probe.stripped").stat().st_size
    for header in (
        *sources.glob("native/rta*.h"),
        *sources.glob("native/*.hpp"),
        *sources.glob("native/*/rta_*.h"),
        *sources.glob("kernels/_core/rta_*.h"),
    ):
        shutil.copyfile(header, folder / header.name)
    memory = found or bound
    (folder / f"{label}.h").write_text(_header(label, loaded, file if embed else None, memory, bool(found)))
    (folder / f"{label}.pc").write_text(_pkg_config(label))
    (folder / f"{label}Config.cmake").write_text(_cmake_config(label))
    files = (archive.name, f"{label}.h", "rtaccel.h", f"{label}.pc", f"{label}Config.cmake")
    return Packed(
        folder, label, files, archive.stat().st_size, kernels, memory, bool(found), program_bytes, sections
    )  # fmt: skip


def source_root() -> Path:
    """The folder with CMakeLists.txt, kernels/ and native/: the checkout, or what the package carries."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here.parent, here / "source"):
        if (folder / "cmake" / "pack.cmake").exists() and (folder / "native" / "model" / "model.cc").exists():
            return folder
    raise BackendUnavailable(
        "pack", f"no sources beside {here}", "those of the native core", "Install rtaccel from its sdist or a checkout."
    )


def _family(isa: Sequence[str]) -> dict[str, str]:
    for family in (X86, ARM, pack_wasm.FAMILY):
        if isa and all(name in family for name in isa):
            return family
    known = ", ".join(dict.fromkeys((*X86, *ARM, pack_wasm.ISA)))
    raise UnsupportedProblem("pack", f"isa {list(isa)}", f"one or more of {known}, of one processor", "Pass --isa.")


def _closure(isa: str, family: dict[str, str]) -> set[str]:
    found = {isa}
    while family[isa] != isa:
        isa = family[isa]
        found.add(isa)
    return found


def _suitable(stage: StageRead) -> list[str]:
    """Kernels of this build that could compute a stage on some processor."""
    attrs = {k: v for k, v in stage.attrs.items() if not isinstance(v, tuple)}
    tensors = {k: (0, *v) for k, v in stage.attrs.items() if isinstance(v, tuple)}
    asked = {"input_dtype": stage.inputs[0].dtype, **attrs, **tensors}
    return [name for op, name, _ in native.kernels() if op == stage.op and not native.unsuited(op, name, asked)]


def _chosen(plan: PlanRead, isa: Sequence[str], family: dict[str, str]) -> list[tuple[str, str, str]]:
    """(operator, kernel, its stem) that a stage will have on a machine with each of the sets."""
    ranks = {(op, name): rank for op, name, rank in native.kernels()}
    here = {name.rsplit("_", 1)[-1] for _, name in ranks}
    found = []
    for stage in plan.stages:
        op, suitable = stage.op, _suitable(stage)
        for name in isa:
            allowed = _closure(name, family)
            if (
                not allowed & here - {"portable"} and name != "portable"
            ):  # another processor: every form of the operator
                allowed = {"portable"}
            fits = [k for k in suitable if k.rsplit("_", 1)[-1] in allowed or k.rsplit("_", 1)[-1] not in {*X86, *ARM}]
            if not fits:
                raise UnsupportedProblem("pack", f"{op} on {name}", "a kernel for it there", "Pass another --isa.")
            best = max(fits, key=lambda k: ranks[op, k])
            own = best.rsplit("_", 1)
            found.append((op, best, own[0] if own[-1] in {*X86, *ARM} else best))
    return list(dict.fromkeys(found))


def _sets(chosen: Sequence[tuple[str, str, str]], isa: Sequence[str], family: dict[str, str]) -> list[str]:
    """The instruction sets to compile for: those that the chosen kernels are of, and on another processor those asked for."""
    if family is pack_wasm.FAMILY:
        return ["portable"]
    own = {kernel.rsplit("_", 1)[-1] for _, kernel, _ in chosen} & set(family)
    own |= {HANDS_ON[name] for name in own if name in HANDS_ON}
    if not _built() & set(family):
        own = {name for i in isa for name in _closure(i, family)} - {"portable"} or {"portable"}
    return [name for name in family if name in own]


def _kernels_of_sets(
    chosen: Sequence[tuple[str, str, str]], family: dict[str, str]
) -> list[tuple[str, str, str]] | None:
    """(operator, stem, set) of the chosen kernels, and of those that take what they leave. None for another processor, whose
    best kernels are not known here."""
    if family is pack_wasm.FAMILY or not _built() & set(family):
        return None
    found = []
    for op, kernel, stem in chosen:
        name = kernel.rsplit("_", 1)[-1]
        found += [(op, stem, own) for own in (name, HANDS_ON.get(name)) if own]
    return found


def _built() -> set[str]:
    return {name.rsplit("_", 1)[-1] for _, name, _ in native.kernels()} - {"portable"}


def _header(label: str, loaded: LoadedModel, embedded: Path | None, memory: int, measured: bool) -> str:
    upper = label.upper()
    how = "measured" if measured else "more than enough; this processor was not there to measure it"
    lines = [
        f"/* {loaded.name}: written by rtaccel pack. */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        '#include "rtaccel.h"',
        '#include "rta_packed.h"',
        "",
        f"#define {upper}_MEMORY_BYTES {memory} /* for rta_model_within: {how} */",
    ]
    for what, edges in (("INPUT", loaded.inputs), ("OUTPUT", loaded.outputs)):
        for i, (edge, dtype, shape) in enumerate(edges):
            elements = 1
            for size in shape:
                elements *= max(size, 1)
            lines.append(
                f"#define {upper}_{what}_{i}_ELEMENTS {elements} /* {edge}: {dtype}{list(shape)} of one sample */"
            )
    if embedded is not None:
        lines += [
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            f"extern const unsigned char {label}_model[];",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            f"#define {upper}_MODEL_BYTES {embedded.stat().st_size}",
            f"/* The model in this header's memory: {upper}_MEMORY_BYTES, wherever they lie. NULL: rta_error(). */",
            f"static inline rta_model* {label}_open(void* memory, size_t bytes) {{",
            f"  return rta_model_within({label}_model, {upper}_MODEL_BYTES, 0, 1, memory, bytes);",
            "}",
        ]
    return "\n".join([*lines, "", "#endif", ""])


_LINK = "-Wl,--gc-sections,-z,noseparate-code"
"""For programs: without code that nobody calls, and without gaps of a page. cmake/pack.cmake measures with the same."""


def _pkg_config(label: str) -> str:
    return (
        f"prefix=${{pcfiledir}}\n\nName: {label}\nDescription: a model with its kernels, by rtaccel\nVersion: 1\n"
        f"Cflags: -I${{prefix}}\nLibs: -L${{prefix}} -l{label} {_LINK} -lm -lpthread -ldl\n"
    )


def _cmake_config(label: str) -> str:
    return f"""add_library({label} STATIC IMPORTED)
set_target_properties({label} PROPERTIES
  IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/lib{label}.a"
  INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}"
  INTERFACE_LINK_OPTIONS "{_LINK}"
  INTERFACE_LINK_LIBRARIES "m;pthread;dl")
"""


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise BackendUnavailable("pack", f"{Path(command[0]).name} ended with {done.returncode}:\n{said}", "a build",
                                 "Look at what it says; a compiler can be named with --compiler.")  # fmt: skip

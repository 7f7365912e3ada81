"""`python -m release.macos`: a wheel for macOS on Apple's processors, by Zig's clang, checked as far as that goes without a Mac.

Nobody has run what it makes. Read instead are the files in it: for which processor and system they are, what they ask of which
library, what they show, that each page is as it was signed, and that the kernels are those of the wheel for 64-bit ARM.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tempfile
import zipfile
from pathlib import Path

from release import mach_o
from release.matrix import MACOS, STABLE, Interpreter, MacTarget, found_interpreters
from release.wheels import MAX_BYTES, ROOT, make_sdist, make_wheel, run, unpacked

SYSTEM = "/usr/lib/libSystem.B.dylib"
LIBRARY, MODULE = "rtaccel/librtaccel.dylib", "rtaccel/_native.abi3.so"
OF_EVERY_FILE = {"__mh_dylib_header", "___dso_handle"}
"""Symbols that Zig's linker adds to a library."""


def zig() -> Path | None:
    found = importlib.util.find_spec("ziglang")
    return Path(found.submodule_search_locations[0]) / "zig" if found and found.submodule_search_locations else None


def target(here: list[Interpreter]) -> MacTarget | None:
    """With the first interpreter that has headers and the stable ABI."""
    usable = sorted((i for i in here if i.headers and i.version >= STABLE), key=lambda i: i.version)
    return MacTarget(interpreter=usable[0]) if usable else None


def faults(library: mach_o.MachO, module: mach_o.MachO, abi: set[str]) -> list[str]:
    """What is wrong with the files of a wheel; abi: what the library has to show."""
    found = []
    beside = library.own_name
    for name, file, others in (("library", library, {}), ("module", module, {beside: set(library.shown)})):
        if file.kind != mach_o.DYLIB or file.system > MACOS or not file.signed:
            found.append(f"{name}: kind {file.kind}, for macOS {file.system}, signed: {file.signed}")
        strange = [asked for asked in file.libraries if asked != SYSTEM and asked not in others]
        found += [f"{name}: asks for {asked}" for asked in strange]
        for symbol, where in file.asked.items():
            python = name == "module" and where == mach_o.LOOKED_UP and symbol.startswith(("_Py", "__Py"))
            if where != SYSTEM and symbol not in others.get(where, ()) and not python:
                found.append(f"{name}: {symbol} from {where}")
    if beside != "@rpath/librtaccel.dylib" or "@loader_path" not in module.paths:
        found.append(f"module: looks for {beside} in {module.paths}")
    shown = {name.removeprefix("_") for name in set(library.shown) - OF_EVERY_FILE}
    found += [f"library: {'shows' if name in shown else 'lacks'} {name}" for name in sorted(shown ^ abi)]
    if "_PyInit__native" not in module.shown:
        found.append("module: no _PyInit__native")
    return found


def kernels(build: Path) -> set[str]:
    """What Ninja makes of kernels in a folder of a build, by the names that both systems have in common."""
    objects = re.findall(r"^build (\S+/kernels/\S+\.o):", (build / "build.ninja").read_text(), re.MULTILINE)
    return {name.rsplit("kernels/", 1)[-1] for name in objects if "_darwin." not in name and "_linux." not in name}


def checked(wheel: Path, wanted: MacTarget) -> str:
    """A line of what the wheel has; SystemExit with what is wrong."""
    if wheel.name.split("-", 2)[2] != f"{wanted.tag}-{wanted.platform}.whl":
        raise SystemExit(f"{wheel.name} is not for {wanted.tag} on {wanted.platform}")
    if wheel.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{wheel.name} has {wheel.stat().st_size} bytes, more than {MAX_BYTES}")
    with zipfile.ZipFile(wheel) as archive:
        library, module = (mach_o.read(archive.read(name)) for name in (LIBRARY, MODULE))
    abi = set((ROOT / "release" / "symbols.txt").read_text().split())
    wrong = faults(library, module, abi)
    if wrong:
        raise SystemExit(f"{wheel.name}: " + "; ".join(wrong[:20]))
    python = sum(where == mach_o.LOOKED_UP for where in module.asked.values())
    return (
        f"{wheel.stat().st_size} B, macOS {library.system[0]}.{library.system[1]}, {len(abi)} functions of the C ABI, "
        f"{python} symbols of Python, all else of libSystem; every page as it was signed"
    )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "release")
    given = parser.parse_args(words)
    compiler, wanted, work = zig(), target(found_interpreters()), given.work.resolve()
    if compiler is None or wanted is None:
        print(
            "nothing was compiled: " + ("ziglang is not installed" if compiler is None else "no CPython 3.12 or later")
        )
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        sources = unpacked(make_sdist(Path(temporary)), work / "sources")
    wheel = make_wheel(sources, wanted, work, compiler)
    print(f"{wheel.name}: {checked(wheel, wanted)}", flush=True)
    run([sys.executable, "-m", "twine", "check", "--strict", wheel])
    print(run([sys.executable, "-m", "abi3audit", "--strict", "--verbose", wheel]).strip().splitlines()[-1])
    arm = work / "build-aarch64"
    if arm.is_dir():
        same, other = kernels(work / f"build-{wanted.arch}"), kernels(arm)
        if same != other:
            raise SystemExit(f"other kernels than for Linux: {sorted(same ^ other)}")
        print(f"{len(same)} sources of kernels and of their core, those of the wheel for Linux on 64-bit ARM")
    wheel.replace(given.out / wheel.name)
    print("Nobody has run it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

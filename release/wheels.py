"""`make wheels`: manylinux_2_28 wheels for x86-64 and 64-bit ARM, and the sdist that they come from, each installed and tried.

Zig's clang is the compiler: it builds against the symbols of glibc 2.28 wherever it runs, for either processor. From CPython
3.12 on one wheel with the stable ABI serves all; 3.10 and 3.11 have wheels of their own, where those interpreters are here.
What is missing is said, and left out. Kernels are compiled once for each processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from release.matrix import ARCHITECTURES, Interpreter, Target, found_interpreters, serves, targets
from release.smoke import of_sdist, on_arm, on_this_machine

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 7_000_000
"""Of a wheel, which PyPI and its users store for each version. Ours has 6.8 MB; 3.7 are code, for each instruction set."""

BUILD_TOOLS = ("scikit-build-core>=0.11", "nanobind>=2.8", "cmake>=3.26", "ninja>=1.11", "build>=1.2")


def run(command: Sequence[str | Path], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise SystemExit(f"{' '.join(map(str, command[:4]))} ... ended with {done.returncode}:\n{said}")
    return str(done.stdout + done.stderr)


def environment(folder: Path, interpreter: Interpreter) -> Path:
    """The Python of a venv with what a build needs."""
    python = folder / "bin" / "python"
    if not python.exists():
        run([interpreter.path, "-m", "venv", folder])
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *BUILD_TOOLS])
    return python


def make_sdist(out: Path) -> Path:
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT])
    return next(out.glob("rtaccel-*.tar.gz"))


def unpacked(sdist: Path, folder: Path) -> Path:
    """The sources as the archive holds them, files that have not changed left alone, so that ninja leaves them alone too. What
    an older archive had goes: CMake would find it."""
    held = set()
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = folder / member.name.partition("/")[2]
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            held.add(path)
            content = file.read()
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    for path in [p for p in folder.rglob("*") if p.is_file() and p not in held]:
        path.unlink()
    return folder


def make_wheel(sources: Path, target: Target, work: Path, zig: Path) -> Path:
    python = environment(work / f"env-{target.interpreter.name}", target.interpreter)
    build = work / f"build-{target.arch}"  # of one processor for all interpreters: the kernels are the same
    # Of the interpreter before; with the last one scikit-build-core would throw the kernels away.
    for stale in ("CMakeCache.txt", "CMakeInit.txt", ".skbuild-info.json"):
        (build / stale).unlink(missing_ok=True)
    raw = work / "raw" / target.name
    shutil.rmtree(raw, ignore_errors=True)
    settings = {
        "build-dir": str(build),
        "cmake.define.CMAKE_TOOLCHAIN_FILE": str(sources / "release" / "zig.cmake"),
        "cmake.define.RTACCEL_ZIG": str(zig),
        "cmake.define.RTACCEL_ZIG_TARGET": target.zig,
    }
    options = [f"--config-setting={key}={value}" for key, value in settings.items()]
    env = (
        os.environ | target.environment | {"PATH": f"{python.parent}:{os.environ['PATH']}", "CMAKE_GENERATOR": "Ninja"}
    )
    command: list[str | Path] = [
        python,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--skip-dependency-check",
        *options,
    ]
    run([*command, "--outdir", raw, sources], env=env)
    return next(raw.glob("*.whl"))


def repaired(wheel: Path, target: Target, out: Path) -> Path:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # auditwheel knows the platforms of this processor by name. For another one it takes the oldest that the symbols allow.
    platform = target.platform if target.arch == os.uname().machine else "auto"
    fresh = wheel.parent / "repaired"
    shutil.rmtree(fresh, ignore_errors=True)
    tool: list[str | Path] = [
        sys.executable,
        "-m",
        "auditwheel",
        "repair",
        "--plat",
        platform,
        "--only-plat",
    ]
    # Kernels above the baseline are called where the processor has them alone, which auditwheel cannot see.
    run([*tool, "--disable-isa-ext-check", "-w", fresh, wheel], env=env)
    made = next(fresh.glob("*.whl"))
    if not serves(made.name, target):
        raise SystemExit(f"{made.name} is not for {target.tag} on {target.platform}")
    if made.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{made.name} has {made.stat().st_size} bytes, more than {MAX_BYTES}")
    return Path(shutil.copy2(made, out / made.name))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="default: both")
    parser.add_argument("--only", metavar="TAG", help="the wheels of one tag, such as cp312-abi3; default: all")
    parser.add_argument("--arm-root", type=Path, help="a folder with an unpacked arm64 system that has a python3")
    parser.add_argument(
        "--try-sdist",
        metavar="SETS",
        nargs="?",
        const="",
        help="also build the sdist from nothing in an environment of its own; SETS: these instruction sets alone",
    )
    parser.add_argument("--sdist-only", action="store_true", help="no wheels")
    parser.add_argument("--no-network", action="store_true", help="nothing is downloaded: tries what is here")
    given = parser.parse_args(words)
    out, work = given.out.resolve(), given.work.resolve()
    arm = given.arm_root and given.arm_root.resolve()
    out.mkdir(parents=True, exist_ok=True)
    here = found_interpreters()
    wanted, missing = targets(here, given.arch or list(ARCHITECTURES))
    if given.sdist_only:
        wanted = []
    elif given.only:
        wanted = [target for target in wanted if target.tag == given.only]
        if not wanted:
            parser.error(f"--only {given.only}: no such wheel with the interpreters that are here")
    print("\n".join(f"left out: {line}" for line in missing), flush=True)
    zig = Path(run([sys.executable, "-c", "import ziglang; print(ziglang.__path__[0])"]).strip()) / "zig"
    sdist = make_sdist(out)
    sources = unpacked(sdist, work / "sources")
    print(f"{sdist.name}  {sdist.stat().st_size} B", flush=True)
    made = []
    for target in wanted:
        wheel = repaired(make_wheel(sources, target, work, zig), target, out)
        made.append((target, wheel))
        print(f"{wheel.name}  {wheel.stat().st_size} B", flush=True)
    run([sys.executable, "-m", "twine", "check", "--strict", sdist, *(wheel for _, wheel in made)])
    for target, wheel in made:
        if target.stable:
            print(run([sys.executable, "-m", "abi3audit", "--strict", "--verbose", wheel]).strip().splitlines()[-1])
    print("twine: passed", flush=True)
    if given.try_sdist is not None:
        print(f"{sdist.name}: {of_sdist(sdist, here[-1], work, given.try_sdist)}", flush=True)
    for target, wheel in made:
        tried = on_this_machine if target.arch == os.uname().machine else on_arm
        for line in tried(wheel, target, here, work, arm_root=arm, network=not given.no_network):
            print(f"{wheel.name}: {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

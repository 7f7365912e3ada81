"""`python -m release.foreign`: the native library as an archive for macOS on arm64, by Zig's clang. Compiled, and not tried.

Without loops, batchers and threads of plans, which take Linux. Kernels are those of portable, neon and neondot.
"""

from __future__ import annotations

import argparse
import importlib.util
import struct
import sys
from pathlib import Path

from release.wheels import ROOT, run

TARGET = "aarch64-macos"
MACH_O, CPU_ARM64 = 0xFEEDFACF, 0x0100000C


def zig() -> Path | None:
    found = importlib.util.find_spec("ziglang")
    return Path(found.submodule_search_locations[0]) / "zig" if found and found.submodule_search_locations else None


def is_for_macos(file: Path) -> bool:
    """Whether a file is one object of 64-bit code for Apple's processors."""
    magic, processor = struct.unpack_from("<II", file.read_bytes())
    return magic == MACH_O and processor == CPU_ARM64


def archive(compiler: Path, work: Path, operators: str = "", jobs: int = 0) -> Path:
    """librtaccel.a. operators: kernels of these alone, separated by semicolons; all where it is empty."""
    options = {
        "CMAKE_TOOLCHAIN_FILE": ROOT / "release" / "zig.cmake",
        "RTACCEL_ZIG": compiler,
        "RTACCEL_ZIG_TARGET": TARGET,
        "RTACCEL_OPS": operators,
    }
    run(["cmake", "-S", ROOT, "-B", work, "-G", "Ninja", *(f"-D{key}={value}" for key, value in options.items())])
    run(["ninja", "-C", work, *(["-j", str(jobs)] if jobs else []), "rtaccel_static"])
    return work / "librtaccel.a"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "release" / TARGET)
    parser.add_argument("--ops", default="", help="kernels of these operators alone, such as 'linear;norm'")
    parser.add_argument("--jobs", type=int, default=0)
    given = parser.parse_args(words)
    compiler = zig()
    if compiler is None:
        print("nothing was compiled: ziglang is not installed")
        return 1
    made = archive(compiler, given.work.resolve(), given.ops, given.jobs)
    members = run([compiler, "ar", "t", made]).split()
    print(f"{made}  {made.stat().st_size} B, {len(members)} objects for {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

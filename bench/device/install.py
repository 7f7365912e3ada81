"""Setting up on a machine without a network: the project onto the system's packages, with nothing downloaded.

What is missing is said, package by package, with what it is for; only what is needed to measure at all stops the set-up.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 570
STAMP = ROOT / "build" / "device" / "installed-from"
"""The hash of the sources that were installed last by this command."""


@dataclass(frozen=True)
class Need:
    """module: what is imported. package: what is installed. Not optional: without it nothing is measured."""

    module: str
    package: str
    purpose: str
    optional: bool = True


NEEDS = (
    Need("torch", "torch", "models, and the card", optional=False),
    Need("numpy", "numpy", "arrays", optional=False),
    Need("safetensors", "safetensors", "files of weights", optional=False),
    Need("triton", "triton", "most kernels", optional=False),
    Need("pytest", "pytest", "checks on the card"),
    Need("xdist", "pytest-xdist", "checks side by side"),
    Need("hypothesis", "hypothesis", "checks that draw their cases"),
    Need("cuda.core", "cuda-core", "kernels built ahead, and those in CUDA C++"),
    Need("cuda.bindings", "cuda-bindings", "the compiler of CUDA C++"),
    Need("pynvml", "nvidia-ml-py", "the clock of the card beside each figure"),
    Need("numba", "numba", "kernels in Numba"),
    Need("numba_cuda", "numba-cuda", "kernels in Numba"),
    Need("cupy", "cupy-cuda13x", "cuSPARSE beside ours, and arrays of CuPy"),
    Need("torchao", "torchao", "its quantization beside ours"),
    Need("gemlite", "gemlite", "its kernels beside ours"),
)
TO_BUILD = (
    Need("scikit_build_core", "scikit-build-core", "the build of the native module", optional=False),
    Need("nanobind", "nanobind", "the build of the native module", optional=False),
    Need("pip", "pip", "the installation", optional=False),
)
"""Only where the native module is not there yet."""


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package above it is not there
        return False


def missing(needs: tuple[Need, ...]) -> list[Need]:
    return [need for need in needs if not is_there(need.module)]


def native_imports() -> bool:
    """Whether the native module of this checkout can be imported, in a process of its own: a broken one may crash."""
    code = "import rtaccel, rtaccel._native; print(rtaccel.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0 and Path(done.stdout.strip()).is_relative_to(ROOT)


def sources() -> str:
    """A hash of what the native module is built from."""
    found = hashlib.sha256()
    patterns = (
        "CMakeLists.txt",
        "cmake/*",
        "rtaccel/*.cc",
        "rtaccel/*.h",
        "kernels/*/*.cc",
        "kernels/*/*.h",
        "kernels/*/*.in",
    )
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def is_current() -> bool:
    """Whether the native module is there, and not one that was installed here from other sources."""
    if not native_imports():
        return False
    return not STAMP.exists() or STAMP.read_text() == sources()


def command(break_system_packages: bool) -> list[str]:
    more = ["--break-system-packages"] if break_system_packages else []
    return [
        sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", *more, "-e", str(ROOT),
    ]  # fmt: skip


def install() -> str | None:
    """None, or what went wrong. A system whose Python is managed by its distribution is asked a second time, with consent."""
    said = ""
    for consent in (False, True):
        try:
            done = subprocess.run(
                command(consent), cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return f"building took more than {LIMIT_S} s"
        if done.returncode == 0:
            return None
        said = (done.stdout + done.stderr)[-3000:]
        if "externally-managed-environment" not in said:
            break
    return said


def setup() -> int:
    """0 where measuring can begin."""
    lacking = missing(NEEDS)
    for need in lacking:
        print(f"{'left out' if need.optional else 'MISSING'}: {need.package}, for {need.purpose}")
    stopped = [need.package for need in lacking if not need.optional]
    if is_current():
        print("The native module is there: nothing to install.")
    else:
        unbuildable = missing(TO_BUILD)
        for need in unbuildable:
            print(f"MISSING: {need.package}, for {need.purpose}")
        stopped += [need.package for need in unbuildable]
        if not stopped:
            print(f"Installing with {' '.join(command(False))}", flush=True)
            why = install()
            if why is not None or not native_imports():
                print(why or "It was installed, and its native module cannot be imported.")
                print("next: mend what the last lines say; building needs a C++ compiler")
                return 1
            STAMP.parent.mkdir(parents=True, exist_ok=True)
            STAMP.write_text(sources())
            print("Installed.")
    if stopped:
        print(f"next: install {', '.join(stopped)}, then run this again")
        return 1
    print("next: python -m bench.device")
    return 0

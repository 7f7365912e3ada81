"""Which wheels there are to be: processors times interpreters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ARCHITECTURES = ("x86_64", "aarch64")
GLIBC = (2, 28)
MACOS = (11, 0)  # the first for Apple's processors
VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
STABLE = (3, 12)  # nanobind's stable ABI begins here: pyproject.toml's wheel.py-api


@dataclass(frozen=True)
class Interpreter:
    version: tuple[int, int]
    path: str
    headers: bool

    @property
    def name(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class Target:
    """One wheel: the processor, and the interpreter that it is built with."""

    arch: str
    interpreter: Interpreter

    @property
    def stable(self) -> bool:
        return self.interpreter.version >= STABLE

    @property
    def tag(self) -> str:
        """The first two parts of the wheel's tag."""
        if self.stable:
            return f"cp{STABLE[0]}{STABLE[1]}-abi3"
        own = "cp" + self.interpreter.name.replace(".", "")
        return f"{own}-{own}"

    @property
    def platform(self) -> str:
        return f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{self.arch}"

    @property
    def zig(self) -> str:
        return f"{self.arch}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"

    @property
    def name(self) -> str:
        return f"{self.tag}-{self.arch}"

    @property
    def environment(self) -> dict[str, str]:
        """Tells the build of which platform the module is: the interpreter at work says its own. The headers are its own
        too: between two 64-bit Linux they differ in nothing that an extension module reads."""
        own = self.interpreter.name.replace(".", "")
        return {
            "_PYTHON_HOST_PLATFORM": f"linux-{self.arch}",
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{own}-{self.arch}-linux-gnu.so",
        }

    def runs_on(self, version: tuple[int, int]) -> bool:
        return version >= STABLE if self.stable else version == self.interpreter.version


@dataclass(frozen=True)
class MacTarget(Target):
    """The wheel for Apple's processors, made by an interpreter of this machine: its headers serve, as for 64-bit ARM."""

    arch: str = "arm64"
    interpreter: Interpreter = field(kw_only=True)

    @property
    def platform(self) -> str:
        return f"macosx_{MACOS[0]}_{MACOS[1]}_{self.arch}"

    @property
    def zig(self) -> str:
        return f"aarch64-macos.{MACOS[0]}.{MACOS[1]}"

    @property
    def name(self) -> str:
        return f"{self.tag}-macos"

    @property
    def environment(self) -> dict[str, str]:
        own = self.interpreter.name.replace(".", "")
        return {
            "_PYTHON_HOST_PLATFORM": f"macosx-{MACOS[0]}.{MACOS[1]}-{self.arch}",
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{own}-darwin.so",
        }


def serves(wheel: str, target: Target) -> bool:
    """Whether a wheel of this file name installs where the target's glibc is: its tag names that one or an older one."""
    tags = re.fullmatch(r"rtaccel-[^-]+-(\w+-\w+)-(.+)\.whl", wheel)
    if tags is None or tags[1] != target.tag:
        return False
    found = re.search(rf"manylinux_(\d+)_(\d+)_{target.arch}(\.|$)", tags[2])
    return found is not None and (int(found[1]), int(found[2])) <= GLIBC


def targets(here: Sequence[Interpreter], architectures: Sequence[str]) -> tuple[list[Target], list[str]]:
    """The wheels that can be built with these interpreters, and a line for each version that none serves."""
    usable = sorted((i for i in here if i.headers), key=lambda i: i.version)
    stable = [i for i in usable if i.version >= STABLE][:1]
    chosen = [i for i in usable if i.version < STABLE] + stable
    missing = []
    for version in VERSIONS:
        name = f"{version[0]}.{version[1]}"
        found = [i for i in here if i.version == version]
        if version < STABLE and not any(i.version == version for i in usable):
            why = "its headers are not here" if found else "it is not on this machine"
            missing.append(f"a wheel for CPython {name}: {why}")
        elif version >= STABLE and not stable:
            missing.append(f"CPython {name}: no interpreter from {STABLE[0]}.{STABLE[1]} on with headers is here")
        elif version >= STABLE and not found:
            missing.append(
                f"a trial on CPython {name}: it is not on this machine (the wheel with the stable ABI serves it)"
            )
    return [Target(arch, interpreter) for arch in architectures for interpreter in chosen], missing


def found_interpreters() -> list[Interpreter]:
    """One of each version: on PATH, or one of pyenv's. Those with headers first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    best: dict[tuple[int, int], Interpreter] = {}
    code = "import sysconfig, sys, os; h = os.path.exists(sysconfig.get_path('include') + '/Python.h')"
    for version in VERSIONS:
        name = f"{version[0]}.{version[1]}"
        for path in [shutil.which(f"python{name}"), *sorted(pyenv.glob(f"{name}.*/bin/python"), reverse=True)]:
            if path is None:
                continue
            command = [str(path), "-c", f"{code}; print(*sys.version_info[:2], h)"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or done.stdout.split()[:2] != [str(part) for part in version]:
                continue  # pyenv's shims end so where the version is not the chosen one
            headers = done.stdout.split()[2] == "True"
            if version not in best or (headers and not best[version].headers):
                best[version] = Interpreter(version, str(path), headers)
    return list(best.values())

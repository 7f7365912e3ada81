"""Hints that name something to install: the extra exists, and holds the package that was found missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rtaccel
from rtaccel import backends
from rtaccel.backends.base import Backend
from rtaccel.cli import info

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FILES = [
    file
    for folder in ("rtaccel", "kernels", "docs", "bench", "tests")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".md") and file.is_file() and file.name != "test_hints.py"
] + [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
HINT = re.compile(r"(?:rtaccel|(?<=[' \"])\.)\[([a-z_,]+)\]")

NAMES = {
    "triton": "triton", "cuda-core": "cuda-core", "numba-cuda": "numba-cuda", "matplotlib": "matplotlib", "rich": "rich",
    "river": "river", "scikit-learn": "scikit-learn", "hdrhistogram": "hdrhistogram", "hdrh": "hdrhistogram",
    "nvidia-ml-py": "nvidia-ml-py", "pynvml": "nvidia-ml-py", "mlcommons-loadgen": "mlcommons-loadgen", "pandas": "pandas",
    "pytest-benchmark": "pytest-benchmark", "onnxruntime": "onnxruntime", "onnx": "onnx",
    "onnxscript": "onnxscript", "mujoco": "mujoco", "nanobind": "nanobind",
}  # fmt: skip
"""A package as hints call it -> as pyproject.toml does."""


def packages(extra: str) -> set[str]:
    return {re.split(r"[ >=<;\[]", line)[0] for line in EXTRAS[extra]}


def hints() -> list[tuple[Path, int, str, list[str]]]:
    """File, line, the sentence around the hint, and its extras."""
    found = []
    for file in FILES:
        lines = file.read_text().splitlines()
        for i, line in enumerate(lines):
            for match in HINT.finditer(line):
                if (
                    "pip" in line
                    or "extra" in line
                    or "nstall" in line
                    or "install" in " ".join(lines[max(0, i - 1) : i + 1])
                ):
                    found.append((file, i + 1, " ".join(lines[max(0, i - 2) : i + 1]), match[1].split(",")))
    return found


def test_every_hint_names_extras_that_there_are() -> None:
    seen = hints()
    assert len(seen) > 20
    wrong = [f"{f.relative_to(ROOT)}:{line}: {e}" for f, line, _, es in seen for e in es if e not in EXTRAS]
    assert not wrong


def test_the_extra_of_a_hint_holds_a_package_that_the_sentence_names() -> None:
    wrong = []
    for file, line, sentence, extras in hints():
        if file.suffix != ".py":
            continue
        held = set().union(*(packages(extra) for extra in extras if extra in EXTRAS))
        named = {NAMES[n] for n in NAMES if re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", sentence)}
        if not named <= held:
            wrong.append(
                f"{file.relative_to(ROOT)}:{line} names {sorted(named)}, [{','.join(extras)}] has {sorted(held)}"
            )
    assert not wrong


def test_a_backend_that_is_installed_is_not_told_to_be_installed() -> None:
    for backend in backends.backends().values():
        reason = backend.unavailable()
        if reason is not None and "not installed" not in reason and backend.name != "cpu":
            assert "nstall" not in backend.remedy, backend.name


def test_portable_is_ready_on_a_card_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"plain": Backend("plain", 0, ("cpu", "cuda"), lambda: None, "", dict)}
    monkeypatch.setattr(backends, "backends", lambda: table)
    for there, devices in ((False, ["cpu"]), (True, ["cpu", "cuda"])):
        monkeypatch.setattr(info, "has_card", lambda there=there: there)
        assert info.collect()["backends"][0]["devices"] == devices
    assert rtaccel.__version__

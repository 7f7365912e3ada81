"""Every command that installs rtaccel with an extra, in errors and in pages: the extra exists and holds what is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

HINT = re.compile(r"pip install (?:-e )?['\"](?:rtaccel|\.)\[([\w, -]+)\]['\"]([^`\"'),;.]*)")
LINES_AROUND = 8
"""Of a hint in code, among which what is missing is named."""


def distributions(extra: str) -> set[str]:
    return {re.split(r"[\s<>=;\[~!]", requirement)[0].lower() for requirement in EXTRAS[extra]}


def spellings(extra: str) -> set[str]:
    """How the packages of an extra are called in code: by distribution, or by module."""
    modules = {
        "hdrhistogram": "hdrh",
        "nvidia-ml-py": "pynvml",
        "mlcommons-loadgen": "mlperf_loadgen",
        "nvidia-cuda-nvrtc": "nvrtc",
    }
    names = distributions(extra)
    return names | {n.replace("-", "_") for n in names} | {n.replace("-", ".") for n in names} | {
        modules[n] for n in names & modules.keys()
    }  # fmt: skip


def hints(folders: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[tuple[str, str, str, str]]:
    """(place, extra, what else the command installs, the lines around)."""
    for folder in folders:
        paths = [ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*"))
        for path in paths:
            if path.suffix not in suffixes:
                continue
            lines = path.read_text().splitlines()
            for i, line in enumerate(lines):
                around = "\n".join(lines[max(0, i - LINES_AROUND) : i + LINES_AROUND + 1])
                for found in HINT.finditer(line):
                    for extra in found[1].split(","):
                        yield f"{path.relative_to(ROOT)}:{i + 1}", extra.strip(), found[2], around


CODE = list(hints(("rtaccel", "kernels"), (".py",)))
ALL = [
    *CODE,
    *hints(("docs", "bench", "examples", "tests", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"), (".md", ".py")),
]


def test_there_are_hints() -> None:
    assert len(CODE) >= 12
    assert {extra for _, extra, _, _ in CODE} >= {"gpu", "numba", "cuda", "energy", "table", "hdr", "mlperf", "report"}


@pytest.mark.parametrize(("place", "extra", "more"), [hint[:3] for hint in ALL], ids=[f"{h[0]} {h[1]}" for h in ALL])
def test_the_extra_exists_and_is_enough(place: str, extra: str, more: str) -> None:
    assert extra in EXTRAS, f"{place} names an extra that pyproject.toml has not"
    assert not re.match(r"\s+[a-z][\w-]*(\s|$)", more) or more.strip().split()[0] in ("and", "or", "on", "with"), (
        f"{place} installs {more.strip()!r} beside an extra, which is to hold it"
    )


@pytest.mark.parametrize(("place", "extra", "around"), [(p, e, a) for p, e, _, a in CODE], ids=[h[0] for h in CODE])
def test_the_extra_holds_what_is_missing(place: str, extra: str, around: str) -> None:
    assert extra in EXTRAS
    assert any(name in around.lower() for name in spellings(extra)), f"{place}: none of {sorted(distributions(extra))}"


def test_no_hint_names_a_package_that_an_extra_holds_for_it() -> None:
    """A bare `pip install nvidia-cuda-nvrtc` would leave out what else the extra brings."""
    held = {name: extra for extra in EXTRAS if extra not in ("dev", "peers", "bench") for name in distributions(extra)}
    said = []
    for folder in ("rtaccel", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for found in re.finditer(r"pip install ([a-z][\w-]+)", path.read_text()):
                if found[1] in held:
                    said.append(f"{path.relative_to(ROOT)}: {found[0]} is 'rtaccel[{held[found[1]]}]'")
    assert not said


def test_cuda_holds_the_launcher_the_compiler_and_what_is_between() -> None:
    assert distributions("cuda") == {"cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc"}

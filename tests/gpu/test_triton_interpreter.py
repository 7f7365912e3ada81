"""Triton kernels in the interpreter, in a process of their own; the same checks on the GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from rtaccel.backends import get_backend
from tests import turns
from tests.triton_checks import conftest

FOLDER = Path(__file__).parent.parent / "triton_checks"
GROUPS = (
    ("recurrent", "recurrent_float32", "sparse", "sparse_bytes", "sparse_choice"),
    ("kernels", "1/2"), ("kernels", "2/2"),
    ("conv", "conv_stream", "graph_streams"), ("formats", "1/2"), ("formats", "2/2"),
    ("persistent", "persistent_streams", "persistent_swap"), ("general", "thirds", "by_index"),
)  # fmt: skip
"""Files of checks, and what part of their checks: each group is a process, of about the same length."""

CHECKS = sorted(FOLDER.glob("check_*.py"))
EVERY_SIZE = FOLDER / "support" / "every_size.py"
GUARD = FOLDER / "support" / "guard_pages.py"
RANDOM = FOLDER / "support" / "random_models.py"
MODELS = (("graphs", 24, 120), ("w8a8", 8, 96), ("networks", 10, 100))
"""What is drawn, how many to a process, and how many in all. Seeds are fixed: what another one finds is for whoever runs it."""

FEWEST_CASES = {"formats": 45, "kernels": 250, "recurrent": 140, "conv": 100, "persistent": 23, "general": 150}
"""In a process, by the first file of its group; some of them are for the interpreter alone."""
FEWEST_ON_A_CARD = 800

TURNS = 1 if turns.EVERY else 12
"""An eighth of the checks of a group, another each day. With the days of the groups each check runs once in 24 days: the
interpreter takes minutes. `make check` runs all."""

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install 'rtaccel[gpu]')"
)


def run_python(arguments: list[str], interpret: bool | None) -> subprocess.CompletedProcess[str]:
    """A fresh Python with TRITON_INTERPRET set, or taken away."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def run_checks(tmp_path: Path, interpret: bool, checks: list[Path], part: str = "1/1") -> int:
    """How many checks ran. Each one did."""
    report = tmp_path / "report.xml"
    done = run_python(
        [
            "-m",
            "pytest",
            *map(str, checks),
            f"--part={part}",
            "-q",
            "--no-header",
            "--tb=short",
            f"--junitxml={report}",
        ],
        interpret,
    )
    if done.returncode != 0:
        pytest.fail(
            f"checks of the Triton kernels failed:\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}", pytrace=False
        )
    suite = ElementTree.parse(report).getroot()
    suite = suite if suite.tag == "testsuite" else suite[0]
    assert suite.attrib["skipped"] == "0"
    return int(suite.attrib["tests"])


@needs_triton
@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_kernels_in_the_interpreter(group: tuple[str, ...], tmp_path: Path) -> None:
    names = [word for word in group if "/" not in word]
    number, parts = map(int, (group[-1] if "/" in group[-1] else "1/1").split("/"))
    turn = turns.turn(TURNS)
    part = f"{number + parts * turn}/{parts * TURNS}"
    ran = run_checks(tmp_path, True, [FOLDER / f"check_{name}.py" for name in names], part)
    assert ran >= FEWEST_CASES[names[0]] // TURNS


def test_every_check_is_in_a_group() -> None:
    assert sorted({f"check_{word}.py" for group in GROUPS for word in group if "/" not in word}) == [
        p.name for p in CHECKS
    ]
    for name in {group[0] for group in GROUPS}:
        parts = [group[-1] for group in GROUPS if group[0] == name and "/" in group[-1]]
        assert parts == [f"{number}/{len(parts)}" for number in range(1, len(parts) + 1)], name


@needs_triton
@pytest.mark.turns(3)
def test_a_part_of_every_size() -> None:
    """Another K each time; `make check` runs all 131 of them."""
    done = run_python([str(EVERY_SIZE), str(random.randrange(131)), "131"], interpret=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert int(done.stdout.splitlines()[-1].split()[0]) >= 41 * 9


@needs_triton
@pytest.mark.turns(14)
@pytest.mark.parametrize(
    ("what", "first", "count"), [(what, first, n) for what, n, of in MODELS for first in range(0, of, n)]
)
def test_random_models(what: str, first: int, count: int) -> None:
    """Graphs of every operator against float64, the same in W8A8 and networks in every scheme against the kernels of the CPU."""
    done = run_python([str(RANDOM), what, str(first), str(count)], interpret=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == f"{count} ran"


@needs_triton
def test_a_kernel_that_cannot_be_made_is_found() -> None:
    """The address of a fixed operand as a number, which a load with a mask does not take."""
    fault = "from rtaccel.kernels.put.triton import put\nput.as_tile = lambda at: at\n"
    run = (
        f"import runpy, sys\nsys.argv[1:] = ['graphs', '51', '1']\nrunpy.run_path({str(RANDOM)!r}, run_name='__main__')"
    )
    done = run_python(["-c", fault + run], interpret=True)
    assert done.returncode == 1 and "Mask argument" in done.stdout, done.stdout + done.stderr[-4000:]


@needs_triton
def test_every_check_would_run_on_a_card() -> None:
    """Collected as with an H100: nothing skips, by a mark or in a body; what is left out is in the list with its reason."""
    words = ["-m", "pytest", "--collect-only", "-q", "-p", "tests.triton_checks.support.fake_card", *map(str, CHECKS)]
    done = run_python(words, interpret=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = re.search(r"on a card: (\d+) would run, (\d+) would skip", done.stdout)
    assert found, done.stdout[-2000:]
    assert int(found[1]) >= FEWEST_ON_A_CARD and found[2] == "0", done.stdout[:2000]
    assert "skipped" not in done.stdout
    for path in CHECKS:
        assert "pytest.skip" not in path.read_text() and "mark.skip" not in path.read_text(), path.name
    own = re.compile(r"^(?:def |    )(test_\w+)[(,]", re.M)  # of the file, or taken from support/
    defined = {f"{p.name}::{name}" for p in CHECKS for name in own.findall(p.read_text())}
    lists = {**conftest.INTERPRETER_ALONE, **conftest.CARD_ALONE}
    assert set(lists) <= defined
    ran = {line.split("[")[0].split("/")[-1] for line in done.stdout.splitlines() if "::" in line}
    assert ran == defined - set(conftest.INTERPRETER_ALONE)


def test_kernels_on_the_gpu(tmp_path: Path) -> None:
    reason = run_python(
        ["-c", "from rtaccel.backends import get_backend; print(get_backend('triton').unavailable() or '')"], False
    ).stdout.strip()
    if reason:
        pytest.skip(reason)
    assert run_checks(tmp_path, False, CHECKS) >= FEWEST_ON_A_CARD


@needs_triton
@pytest.mark.turns(6)
@pytest.mark.skipif(sys.platform != "linux", reason="guards buffers with mprotect, as on Linux")
def test_kernels_touch_nothing_outside_their_buffers() -> None:
    done = run_python([str(GUARD)], interpret=True)
    assert done.returncode == 0, done.stderr[-4000:]
    # 2:4 in int8 reads words of x, which rows of 131 numbers are not: six problems, at both ends of a page
    found = re.fullmatch(r"(\d+) ran, untaken: fused_sparse_linear sparse_linear 12\s*", done.stdout)
    assert found and int(found[1]) >= 400, done.stdout


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="guards buffers with mprotect, as on Linux")
@pytest.mark.parametrize("fault", ["overread", "overwrite", "underread"])
def test_a_kernel_that_leaves_its_buffer_dies(fault: str) -> None:
    assert run_python([str(GUARD), fault], interpret=True).returncode == -signal.SIGSEGV


def test_listing_the_backends_imports_neither_triton_nor_torch() -> None:
    code = "import sys, rtaccel.backends as b; b.backends(); print(sorted({'torch', 'triton'} & set(sys.modules)))"
    done = run_python(["-c", code], interpret=None)
    assert done.stdout.strip() == "[]", done.stderr


@needs_triton
def test_interpreter_must_be_chosen_before_triton_is_imported() -> None:
    code = (
        "import os, triton; os.environ['TRITON_INTERPRET'] = '1'\n"
        "from rtaccel.backends import require; require('triton')"
    )
    done = run_python(["-c", code], interpret=None)
    assert "BackendUnavailable" in done.stderr
    assert "before Python starts" in done.stderr


def test_without_a_card_the_reason_names_both_ways() -> None:
    backend = get_backend("triton")
    reason = backend.unavailable()
    if reason is None:
        pytest.skip(f"triton runs here: {dict(backend.facts())}")
    assert ("NVIDIA GPU" in reason and "TRITON_INTERPRET=1" in reason) or "rtaccel[gpu]" in reason

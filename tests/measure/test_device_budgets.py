"""Budgets per device, and the yardstick that scales them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtaccel import _native
from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import Budget
from rtaccel.measure.device_budgets import budgets_here, yardstick_us

FILE = """
[budget.everywhere]
p99_us = 500
[budget.tone]
p99_us = 400
size_bytes = 10

[device."EPYC 9B14"]
yardstick_us = 20.0
[device."EPYC 9B14".budget.tone]
p50_us = 30
p99_us = 50
max_error = 0.5

[device."Cortex-A76"]
yardstick_us = 60
[device."Cortex-A76".budget.tone]
p99_us = 150

[device.EPYC.budget.tone]
p99_us = 60

[device.H100.budget.tone]
p99_us = 12
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("names", "device", "tone"),
    [
        (("AMD EPYC 9B14 96-Core Processor",), "EPYC 9B14", Budget(p50_us=30, p99_us=50, max_error=0.5)),
        (("amd epyc 7B12",), "EPYC", Budget(p99_us=60)),
        (("Intel Xeon", "NVIDIA H100 80GB HBM3"), "H100", Budget(p99_us=12)),
    ],
)
def test_the_section_of_this_machine_replaces_general_rows(
    file: Path, names: tuple[str, ...], device: str, tone: Budget
) -> None:
    found = budgets_here(file, names=names)
    assert (found.device, found.scale, found.said, found.scaled) == (device, 1.0, None, frozenset())
    assert found.rows == {"everywhere": Budget(p99_us=500), "tone": tone}


@pytest.mark.parametrize(
    ("here", "device", "scale", "p99"),
    [(40.0, "Cortex-A76", 2 / 3, 100), (30.0, "EPYC 9B14", 1.5, 75), (5, "EPYC 9B14", 0.25, 12.5)],
)
def test_another_machine_gets_the_nearest_ones_limits_scaled(
    file: Path, here: float, device: str, scale: float, p99: float
) -> None:
    found = budgets_here(file, names=("Unheard-of 3000",), yardstick=here)
    assert found.device == device
    assert found.scale == pytest.approx(scale)
    assert found.rows["tone"].p99_us == pytest.approx(p99)
    assert found.rows["everywhere"] == Budget(p99_us=500)
    assert found.scaled == {"tone"}
    assert found.said is not None
    assert all(word in found.said for word in (device, f"{scale:.3g}", f"{here:.3g} us"))
    if device == "EPYC 9B14":
        assert found.rows["tone"].max_error == 0.5


@pytest.mark.parametrize("here", [4.9, 241.0])
def test_a_machine_too_unlike_is_refused(file: Path, here: float) -> None:
    with pytest.raises(FormatError, match=r"Unheard-of 3000, yardstick .*factor of four.*device_budgets"):
        budgets_here(file, names=("Unheard-of 3000",), yardstick=here)


def test_a_file_for_another_device_without_a_yardstick_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text("[device.H100.budget.tone]\np99_us = 12\n")
    with pytest.raises(FormatError, match="for H100; this is "):
        budgets_here(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("device = 3", "device"), ("[device]\nx = 3", "device"), ("[device.x]\nyardstick = 3", "'yardstick'"),
        ("[device.x]\nyardstick_us = 0", "yardstick_us=0"), ("[device.x]\nyardstick_us = true", "yardstick_us=True"),
        ("[device.x.budget.y]\np95_us = 3", "p95_us"), ("[device.x.budget.y]\np99_us = 0", "p99_us=0"),
        ("[device.x]\nbudget = 3", "such rows"), ("other = 3", "such rows"), ("[budget]\nx = 3", "such rows"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(content)
    with pytest.raises(FormatError, match=re.escape(says)):
        budgets_here(path, names=("x",))


def test_a_plain_file_needs_no_yardstick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "yardstick", lambda: 1 / 0)
    path = tmp_path / "budgets.toml"
    path.write_text("[budget.tone]\np99_us = 12\n")
    assert budgets_here(path).rows == {"tone": Budget(p99_us=12)}


def test_the_yardstick_is_a_length_and_prints_its_section(tmp_path: Path) -> None:
    assert 1 < yardstick_us() < 10_000
    command = [sys.executable, "-m", "rtaccel.measure.device_budgets"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    path = tmp_path / "budgets.toml"
    path.write_text(printed + "[budget.tone]\np99_us = 12\n")
    found = budgets_here(path)
    assert found.device is not None
    assert found.scale == 1.0

"""What is recorded of the machine, and why there may be nothing to measure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from bench.device import machine, probe

XML = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>580.65.06</driver_version><cuda_version>13.0</cuda_version>
  <gpu id="00000000:0F:00.0">
    <product_name>NVIDIA H100 80GB HBM3</product_name><persistence_mode>{persistence}</persistence_mode>
    <mig_mode><current_mig>{mig}</current_mig></mig_mode><compute_mode>Default</compute_mode>
    <fb_memory_usage><total>81559 MiB</total><free>80994 MiB</free></fb_memory_usage>
    <clocks><sm_clock>345 MHz</sm_clock><mem_clock>2619 MHz</mem_clock></clocks>
    <max_clocks><sm_clock>1980 MHz</sm_clock><mem_clock>2619 MHz</mem_clock></max_clocks>
    <applications_clocks><graphics_clock>{application}</graphics_clock></applications_clocks>
    <default_applications_clocks><graphics_clock>1980 MHz</graphics_clock></default_applications_clocks>
    <clocks_event_reasons>
      <clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
      <clocks_event_reason_sw_power_cap>{cap}</clocks_event_reason_sw_power_cap>
    </clocks_event_reasons>
    <processes>{processes}</processes>
  </gpu>
</nvidia_smi_log>
"""
OTHER = (
    "<process_info><pid>77</pid><process_name>train.py</process_name><used_memory>512 MiB</used_memory></process_info>"
)
QUIET = {"persistence": "Enabled", "mig": "Disabled", "application": "1980 MHz", "cap": "Not Active", "processes": ""}


def tool(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that says this."""
    (folder / "said").write_text(text)
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$*" = "-q -x" ] || exit 9\ncat {folder}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "mps", lambda: "no")


def test_a_quiet_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path, XML.format(**QUIET), monkeypatch)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    found = machine.record()
    assert (found["card"], found["driver"], found["mig"]) == ("NVIDIA H100 80GB HBM3", "580.65.06", "Disabled")
    assert (found["sm_clock"], found["sm_clock_max"], found["memory_clock_max"]) == ("345 MHz", "1980 MHz", "2619 MHz")
    assert found["clocks_held_by"] == ["gpu_idle"]
    assert found["variables"]["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"
    assert found["other_processes"] == []
    assert found["cpu"]
    assert found["kernel"].startswith("Linux")
    (said,) = machine.remarks(found)
    assert (
        said
        == "Clocks of the multiprocessors: 345 MHz of at most 1980 MHz; not locked as far as the driver tells; held by: nothing."
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"processes": OTHER}, "Other processes were on the card: 77 train.py 512 MiB."), ({"mig": "Enabled"}, "MIG is on"),
        ({"persistence": "Disabled"}, "Persistence mode is off"),
        ({"application": "1410 MHz"}, "application clocks are set to 1410 MHz"),
        ({"cap": "Active"}, "held by: sw_power_cap"),
    ],
)  # fmt: skip
def test_what_makes_figures_less_than_they_look_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], says: str
) -> None:
    tool(tmp_path, XML.format(**QUIET | changed), monkeypatch)
    assert says in " ".join(machine.remarks(machine.record()))


def test_mps_and_blocking_launches_are_said() -> None:
    found = {"mps": "its daemon runs", "variables": {"CUDA_LAUNCH_BLOCKING": "1"}}
    said = " ".join(machine.remarks(found))
    assert "MPS: its daemon runs" in said
    assert "CUDA_LAUNCH_BLOCKING" in said


def test_the_pipe_of_mps_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "nothing"))
    assert machine.mps() == "no"
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert str(tmp_path) in machine.mps()


@pytest.mark.parametrize("text", ["no XML", "<nvidia_smi_log><driver_version>1</driver_version></nvidia_smi_log>"])
def test_a_tool_that_says_nothing_usable_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    tool(tmp_path, text, monkeypatch)
    found = machine.record()
    assert found["nvidia-smi"] in ("says nothing usable (ParseError)", "sees no card")
    assert machine.remarks(found) == []


def test_drivers_are_compared_by_their_major_version() -> None:
    assert probe.too_old((13, 0), "13.2") is None
    assert probe.too_old((13, 2), "12.8") is None
    said = probe.too_old((12, 8), "13.0")
    assert said is not None
    assert "up to 12.8" in said
    assert "torch is built for 13.0" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.look()["reason"]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(probe, "driver_cuda", lambda: "no NVIDIA driver is installed")
    assert probe.look()["reason"] == "no NVIDIA driver is installed"
    monkeypatch.setattr(probe, "driver_cuda", lambda: (12, 8))
    assert "newer driver" in probe.look()["reason"]
    monkeypatch.setattr(probe, "driver_cuda", lambda: (13, 0))
    assert "the card cannot be used" in probe.look()["reason"]


@pytest.mark.parametrize(
    ("code", "seconds", "says"),
    [
        ("import time; time.sleep(600)", 1.0, "does not answer within 1 s"), ("import os; os.abort()", 300.0, "broke"),
        ("print('no JSON')", 300.0, "broke"), ("raise OSError('driver')", 300.0, "OSError: driver"),
    ],
)  # fmt: skip
def test_looking_for_a_card_may_hang_or_break(code: str, seconds: float, says: str) -> None:
    assert says in probe.probe(seconds, ("-c", code))["reason"]
    assert sys.executable

"""Profiles as files, and what they say of another machine; links."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.serve.split import probes


def made(**times: float) -> rt.MachineProfile:
    kinds = {"a": "linear float32", "b": "linear float32", "c": "linear int8", "d": "conv float32"}
    return rt.MachineProfile(
        {"cpu": "x"}, {k: (kinds[k], us) for k, us in times.items()}, {}, 1.0, {"int8": (1.0, 0.5)}
    )


def test_a_stage_takes_what_probes_of_its_kind_say() -> None:
    here, there = made(a=1, b=100, c=1, d=7), made(a=2, b=800, c=3, d=7)
    assert there.us("linear float32", "", 1, here) == pytest.approx(2)
    assert there.us("linear float32", "", 100, here) == pytest.approx(800)
    assert there.us("linear float32", "", 10, here) == pytest.approx(10 * 4)  # half way between 2 and 8, in logarithms
    assert there.us("linear float32", "", 1e-3, here) == pytest.approx(2e-3)
    assert there.us("linear float32", "", 1e6, here) == pytest.approx(8e6)
    assert there.us("linear int8", "", 5, here) == pytest.approx(15)
    assert there.us("linear bfloat16", "", 1, here) == pytest.approx(math.sqrt(2 * 3), rel=0.5)  # any linear probe
    assert there.us("softmax float32", "", 10, here) == pytest.approx(
        10 * math.sqrt(2 * 3), rel=0.5
    )  # the median of all
    assert there.scaled(0.5).us("linear int8", "", 5, here.scaled(10)) == pytest.approx(0.5 * 1.5)
    assert there.scaled(2).frame("int8", 10) == pytest.approx(12)
    with pytest.raises(UnsupportedProblem):
        there.us("linear float32", "", 1, made())


def test_a_stage_that_was_measured_there(tmp_path: Path) -> None:
    fast = rt.compile(nn.Linear(8, 4).eval(), torch.randn(1, 8))
    profile = made(a=1).with_model(fast, (torch.randn(1, 8),), calls=5)
    (key,) = profile.stages
    assert key == probes.key_of(probes.stages_of(fast)[0], 1)
    assert profile.scaled(3).us("any", key, 1e9, made(a=5)) == pytest.approx(3 * profile.stages[key])
    assert rt.MachineProfile.load(profile.scaled(3).save(tmp_path / "p.json")) == profile.scaled(3)
    assert "1 probes, 1 stages, times 3" in str(profile.scaled(3))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"}, {"version": 2}, {"factor": 0}, {"factor": True}, {"probes": {"a": ["linear", float("inf")]}},
        {"probes": {"a": ["linear", -1]}}, {"probes": {"a": 5}}, {"stages": {"a": "fast"}}, {"machine": 5}, {"call_us": None},
        {"frame_us": {"int8": [1]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_lies_or_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**made(a=1).to_dict(), **change}))
    with pytest.raises(FormatError):
        rt.MachineProfile.load(path)


def test_other_files(tmp_path: Path) -> None:
    for content in (b"", b"[1]", b"\xff\xfe", b"{}"):
        (tmp_path / "p.json").write_bytes(content)
        with pytest.raises(FormatError):
            rt.MachineProfile.load(tmp_path / "p.json")
    with pytest.raises(FileNotFoundError):
        rt.MachineProfile.load(tmp_path / "none.json")
    for factor in (0, -1, math.nan, "2", None):
        with pytest.raises(FormatError):
            made(a=1).scaled(factor)  # type: ignore[arg-type]


def test_links() -> None:
    link = rt.Link(rtt_us=100, mb_s=2, loss=0.1, timeout_us=1000)
    assert link.us(200, 100) == 250
    assert link.arrives(1472, 1473) == pytest.approx(0.9**3)
    assert link.expected_us(300, 10, 10) == pytest.approx(300 + (1 / 0.81 - 1) * 1000)
    assert rt.Link(rtt_us=5).percentile_us(0.99, 7, 10, 10) == 7
    assert rt.Link(rtt_us=5).us(1e9, 1e9) == 5
    for said in (
        {"rtt_us": -1},
        {"rtt_us": math.nan},
        {"rtt_us": "1"},
        {"mb_s": 0},
        {"loss": 1},
        {"loss": -0.1},
        {"timeout_us": 0},
    ):
        with pytest.raises(FormatError):
            rt.Link(**{"rtt_us": 1, **said})


def test_the_command_measures_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(probes, "networks", lambda: {"one": (nn.Sequential(nn.Linear(8, 8)), (torch.zeros(1, 8),))})
    from rtaccel.cli.main import main

    (tmp_path / "m.py").write_text(
        "import torch\ndef small():\n    return torch.nn.Linear(6, 3).eval(), (torch.zeros(1, 6),)\n"
    )
    path = tmp_path / "here.json"
    assert main(["profile", f"{tmp_path / 'm.py'}:small", "--machine-profile", str(path), "--calls", "5"]) == 0
    found = rt.MachineProfile.load(path)
    assert len(found.probes) == 3 and len(found.stages) == 1 and str(path) in capsys.readouterr().out
    assert found.call_us > 0 and set(found.frame_us) == {"float32", "int8", "int4"}
    with pytest.raises(SystemExit) as ended:
        main(["profile"])
    assert ended.value.code == 2

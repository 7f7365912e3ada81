"""`--device cuda` of every example: a sentence and nothing done where there is no GPU; on the CPU no figure is made up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from examples._shared import device, outcome
from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem

EXAMPLES = ("adaptive_control", "anomaly_stream", "order_book", "remaining_life", "telemetry", "trigger")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("example", EXAMPLES)
def test_without_a_gpu(example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = importlib.import_module(f"examples.{example}.run")
    words = ["--device", "cuda", "--json", str(tmp_path / "a.json")]
    assert outcome.main(example, "", run.work, with_data=True, argv=words) == outcome.SKIPPED
    said = capsys.readouterr()
    assert "device='cuda'" in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert json.loads((tmp_path / "a.json").read_text())["verdict"] == "SKIPPED"
    with pytest.raises(BackendUnavailable):
        device.check("cuda")


def test_records_are_for_the_cpu() -> None:
    run = importlib.import_module("examples.anomaly_stream.run")
    with pytest.raises(UnsupportedProblem, match="Leave --device out"):
        run.work(outcome.options("", True).parse_args(["--device", "cuda"]))


def test_the_cpu_adds_nothing() -> None:
    x = torch.zeros(1, 2)
    assert device.on_device("cpu", torch.nn.Linear(2, 2).eval(), x, x, "a sample") == ({}, [])

"""`rtaccel compile`: what it says of a model, the file it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rtaccel as rt
from rtaccel.cli.main import main
from tests.cli.test_cli_models import nets

__all__ = ["nets"]


def net() -> tuple[nn.Module, tuple[torch.Tensor], list[torch.Tensor]]:
    """The target of the same name."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    return model, (torch.randn(1, 6),), [torch.randn(64, 6)]


def test_the_file_holds_the_model(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loaded into the model compiled with other scales, it computes what the command's own model did."""
    out = tmp_path / "net.safetensors"
    assert main(["compile", f"{nets}:net", "--scheme", "w8a8", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["not_captured"] is None
    assert found["torch"] == []
    assert 0 < found["errors"][0] < 0.05
    assert found["weight_bytes"] < found["model_bytes"] == 4 * (6 * 16 + 16 + 16 * 2 + 2)
    model, inputs, calibration = net()
    first = rt.compile(model, inputs, "w8a8", calibration=calibration)
    other = rt.compile(model, inputs, "w8a8", calibration=[3 * batch for batch in calibration])
    x = torch.randn(9, 6)
    assert not torch.equal(other(x), first(x))
    other.load_state_dict(load_file(out))
    assert torch.equal(other(x), first(x))


def test_it_says_what_it_did(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", f"{nets}:net"]) == 0
    text = capsys.readouterr().out
    assert "2 stages" in text
    assert "weights 584 bytes, 584 before" in text
    assert "relative rms" in text
    assert main(["compile", f"{nets}:compiled"]) == 0  # nothing to compare it with
    assert "relative rms" not in capsys.readouterr().out


def test_what_cannot_be_written_is_refused_first(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("net.pt", str(tmp_path / "nowhere" / "net.safetensors")):
        assert main(["compile", f"{nets}:broken", "--out", out]) == 2  # before the user's code runs
        assert "safetensors" in capsys.readouterr().err
    out = str(tmp_path / "net.safetensors")
    assert main(["compile", f"{nets}:uncaptured", "--out", out]) == 2
    assert "not captured" in capsys.readouterr().err
    assert not Path(out).exists()
    assert main(["compile", f"{nets}:uncaptured"]) == 0
    assert "not compiled as a whole" in capsys.readouterr().out

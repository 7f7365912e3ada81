"""What ours stands beside computes the same network, and packages that are not there are left out."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rtaccel as rt
from bench.device.rows import graphs, models, peers, timing
from rtaccel.core.errors import FormatError

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("index", range(4))
def test_a_time_step_of_torch_is_what_its_window_ends_with(index: int) -> None:
    """Small ones of each kind: what ours stands beside computes the same network."""
    given = (
        models.Sequence("gru", models.Newest(nn.GRU(5, 6, batch_first=True)).eval(), 5, 7),
        models.Sequence("lstm", models.Newest(nn.LSTM(5, 6, 2, batch_first=True)).eval(), 5, 7),
        models.Sequence("tcn", models.Tcn((5, 6, 4), 3).eval(), 5, 5),
        models.Sequence("tcn of one layer", models.Tcn((5, 6), 2).eval(), 5, 2),
    )[index]
    window = given.window(1)
    step = models.TimeStep(given)
    steps = window[0].T if "tcn" in given.name else window[0]
    with torch.no_grad():
        for x in steps:
            y = step(x[None])
        torch.testing.assert_close(y, given.model(window))


def test_other_packages_are_left_out_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model, x = nn.Linear(4, 2), torch.randn(1, 4)
    assert list(peers.torchao_ways(model, x)) == list(peers.gemlite_ways(model, x)) == []


def test_schemes_and_models_are_found_by_their_names() -> None:
    assert graphs.scheme_of("w4a16 g128") == rt.W4A16(group_size=128)
    assert graphs.scheme_of("w4a8 g64") == rt.W4A8(group_size=64)
    assert graphs.scheme_of("w8a8") == "w8a8"
    model, x = graphs.given("linear", "16x32x8")
    assert model(x).shape == (16, 8)
    model, x = graphs.given("window", "gru 64-128")
    assert model(x).shape == (1, 1)
    with pytest.raises(FormatError, match="kind 'other'"):
        graphs.given("other", "x")


def test_copies_have_weights_of_their_own_on_the_card() -> None:
    """What makes a cold row cold. Copies that take no memory are refused."""

    class Fast:
        made = 1

        def __deepcopy__(self, memo: object) -> Fast:
            type(self).made += 1
            return Fast()

    copies, mib = timing.copies_of(Fast(), 128, lambda: Fast.made * (8 << 20))
    assert len({id(each) for each in copies}) == len(copies) == Fast.made
    assert mib == 8 * len(copies) >= 180
    assert len(timing.copies_of(Fast(), 5, lambda: Fast.made * (8 << 20))[0]) == 5
    with pytest.raises(FormatError, match="a copy of 0 bytes"):
        timing.copies_of(Fast(), 128, lambda: 0)


def test_nothing_that_is_imported_before_the_fork_asks_for_the_card() -> None:
    """A process that has touched CUDA cannot be forked into one that uses it."""
    code = (
        "import torch\n"
        "def refuse(*_, **__): raise SystemExit('asked for the card')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch._C._cuda_getDeviceCount = refuse\n"
        "from bench.device.__main__ import preload\n"
        "preload()\n"
        "print(torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr

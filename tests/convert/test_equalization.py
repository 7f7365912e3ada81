"""Input columns of very different ranges, brought to one before int8 where calibration shows that to serve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

RANGES = torch.logspace(-0.9, 0.9, 24)
"""Of the columns; the weights below are as much smaller as the columns are larger, as training makes them."""


def model(wide: bool = True) -> nn.Sequential:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 7)).eval()
    if wide:
        with torch.no_grad():
            network[0].weight /= RANGES
    return network


def rows(n: int, wide: bool = True) -> Tensor:
    return torch.randn(n, 24) * (RANGES if wide else 1.0)


def error(fast: rt.CompiledModel | rt.StreamModel, network: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        want = network(x)
    return float((fast(x) - want).norm() / want.norm())


def notes(fast: rt.CompiledModel | rt.StreamModel) -> list[str]:
    return [note for note in fast._program.notes if "brought to one range" in note]


@pytest.mark.parametrize("observer", ["absmax", "percentile", "mse"])
def test_much_less_error_where_columns_differ(observer: str) -> None:
    network, x = model(), rows(200)
    fast = rt.compile(network, (x[:1],), rt.W8A8("static", observer), calibration=rows(2000))
    assert notes(fast) and notes(fast)[0] in fast.explain()
    assert error(fast, network, x) < 0.03
    alone = rt.compile(network, (x[:1],), rt.W8A8("dynamic"))  # has no columns to know
    assert error(fast, network, x) < 0.5 * error(alone, network, x)


def test_nothing_changes_where_columns_are_alike() -> None:
    network = model(wide=False)
    fast = rt.compile(network, (rows(1, False),), "w8a8", calibration=rows(2000, False))
    assert not notes(fast)
    assert fast._program.stages[0].op == "quantize"


def test_few_rows_are_not_believed() -> None:
    """They show columns of different ranges where there are none, and what comes later would be clipped."""
    torch.manual_seed(6)
    network = nn.Sequential(nn.Linear(512, 64)).eval()
    with torch.no_grad():
        network[0].weight *= torch.rand(64, 512) < 0.02
    calibration, x = torch.randn(256, 512), torch.randn(200, 512)
    fast = rt.compile(network, (x,), rt.W8A8("static", "absmax"), calibration=[row[None] for row in calibration])
    assert not notes(fast)
    assert error(fast, network, x) < 0.02


def test_nothing_changes_where_wide_columns_carry_the_sums() -> None:
    network = model(wide=False)
    with torch.no_grad():
        network[0].weight *= RANGES
    fast = rt.compile(network, (rows(1),), "w8a8", calibration=rows(2000))
    assert not notes(fast)


@pytest.mark.parametrize("backend", ["portable", "cpu"])
def test_every_backend_gives_what_the_reference_gives(backend: str) -> None:
    network, x = model(), rows(33)
    torch.manual_seed(1)
    calibration = rows(500)
    fast = rt.compile(network, (x,), "w8a8", calibration=calibration, backend=backend)
    plain = rt.compile(network, (x,), "w8a8", calibration=calibration, backend="portable")
    assert notes(fast)
    assert torch.equal(fast(x), plain(x))


def test_a_column_that_was_never_seen_still_counts() -> None:
    network, calibration = model(), rows(500)
    calibration[:, 20] = 0.0
    fast = rt.compile(network, (calibration[:1],), "w8a8", calibration=calibration)
    x = rows(1)
    moved = x.clone()
    moved[0, 20] += 3.0
    assert notes(fast)
    assert not torch.equal(fast(moved), fast(x))


def test_two_readers_leave_the_input_alone() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.side = model(), nn.Linear(24, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.side(x)

    fast = rt.compile(Two().eval(), (rows(1),), "w8a8", calibration=rows(500))
    assert not notes(fast)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_windows_and_streams_of_recurrent_layers(cell: type[nn.LSTM] | type[nn.GRU]) -> None:
    torch.manual_seed(2)
    layer = cell(24, 32, 2, batch_first=True).eval()
    with torch.no_grad():
        layer.weight_ih_l0 /= RANGES
    windows = torch.randn(40, 20, 24) * RANGES
    with torch.no_grad():
        want = layer(windows)[0]
    fast = rt.compile(layer, (windows[:1],), "w8a8", calibration=windows)
    live = rt.stream(layer, windows[:1, 0], "w8a8", calibration=windows)
    assert notes(fast) and notes(live)
    got = torch.stack([live.step(windows[:1, t])[0] for t in range(20)])
    assert float((fast(windows)[0] - want).norm() / want.norm()) < 0.03
    assert float((got - want[0]).norm() / want[0].norm()) < 0.03


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_row_corrupts_only_itself(value: float) -> None:
    network, x = model(), rows(9)
    fast = rt.compile(network, (x,), "w8a8", calibration=rows(500))
    want = fast(x)
    with_nan = x.clone()
    with_nan[4, 5] = value
    got = fast(with_nan)
    others = torch.arange(9) != 4
    assert got[4].isnan().all()
    assert torch.equal(got[others], want[others])

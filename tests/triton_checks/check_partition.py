"""MLPs that are cut among programs, against the contract to the last bit: in the interpreter side by side, or on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem
from rtaccel.kernels._persistent import triton_mailbox
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton import partition
from rtaccel.kernels.mlp.triton.config import Operands
from rtaccel.kernels.mlp.triton.partition_config import THREADS, Partition, partition_of
from tests.triton_checks.support.sides import DEVICE, INTERPRET, Side

require("triton")
TIMEOUT_NS = 60_000_000_000

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def same(got: Tensor, want: Tensor) -> bool:
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


@pytest.mark.parametrize(
    ("widths", "activations", "programs", "group"),
    [
        ((20, 33, 7), ("relu", "none"), 2, 0),
        ((5, 24, 8, 30), ("leaky_relu", "relu", "none"), 3, 0),
        ((20, 150, 90), ("relu", "none"), 2, 0),
        ((150, 40, 7), ("relu", "none"), 2, 32),
    ],
)
def test_parts_of_every_layer(
    widths: tuple[int, ...], activations: tuple[str, ...], programs: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, so that the second launch goes on with the numbers of the first; a row without meaning is NaN and alone."""
    if INTERPRET:
        from tests.triton_checks.support import side_by_side

        monkeypatch.setattr(partition, "bind", side_by_side.bind)
    allocate = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **k: allocate(*a, **k).fill_(float("nan") if "dtype" not in k else 85)
    )
    stage = contract.make_stage(widths, activations, 0.1, seed=int(torch.randint(1 << 30, ())), group_size=group)
    call = partition.prepared(stage, Problem.of(stage, 1, DEVICE), Partition(widths, group, programs))
    for rows in (1, 3):
        x = torch.randn(rows, widths[0]) * 2
        if rows == 3:
            x[1, -1] = float("nan")
        (got,) = call(x.to(DEVICE))
        assert same(got.cpu(), operator("mlp").reference(stage, x)[0])


@pytest.mark.parametrize("group", [0, 16])
def test_a_network_that_stays_cut(group: int, side: Callable[..., Side]) -> None:
    widths = (9, 24, 17)
    stage, cut = contract.make_stage(widths, ("relu", "none"), group_size=group), Partition(widths, group, 2)
    ops, spec = Operands.of(stage, cut, DEVICE), partition.specialize_persistent(stage.attrs, cut)
    exchange = torch.zeros(cut.exchange_words, dtype=torch.int64, device=DEVICE)
    made = side(9, 17, commands=True)
    made.start(spec, {"exchange_ptr": exchange, **ops.arguments(), "idle_looks": 0, "second": 0}, programs=2)
    for message in range(4):
        x, y = torch.randn(1, 9), torch.full((1, 17), 7.0)
        if message == 2:
            x[0, 0] = float("inf")
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        assert same(y, operator("mlp").reference(stage, x)[0]), message
    assert made.end() == triton_mailbox.ABORTED


def test_how_a_chain_is_cut() -> None:
    for widths, group, programs in (
        ((256, 384, 384, 128), 0, 3),
        ((640, *[128] * 4, 8, *[128] * 4, 640), 0, 3),
        ((20, 512, 512, 5), 0, 3),
        ((20, 512, 512, 5), 32, 2),
        ((512, 1024, 1024, 512), 32, 11),
    ):
        cut = partition_of({"widths": widths, "group_size": group}, 132)
        assert isinstance(cut, Partition)
        assert cut.programs == programs and sum(cut.held_words(THREADS)) <= 112 * 256
        assert all(programs * sum(rows) >= n for rows, n in zip(cut.rows, widths[1:]))
        assert all(sum(columns) >= k for columns, k in zip(cut.columns, widths))
        assert cut.slot >= max(programs * sum(rows) // 4 for rows in cut.rows)
    assert "1024" in str(partition_of({"widths": (20, 1030, 5)}))
    assert "groups of 16, 32, 64, 128, not 48" in str(partition_of({"widths": (20, 512, 512, 5), "group_size": 48}))
    assert "at most 2 programs" in str(partition_of({"widths": (256, 384, 384, 128)}, 2))


def test_what_is_not_taken() -> None:
    problem = Problem.of(contract.make_stage((20, 33, 7), ("relu", "none")), 1)
    assert "one after another" in str(partition.supports(problem))
    assert "one after another" in str(partition.supports(replace(problem, rows=2)))

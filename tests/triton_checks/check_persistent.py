"""MLPs that stay on the GPU, with the native core as the host: both sides of the mailbox, and chains that are cut among programs.

Started by tests/gpu/test_triton_interpreter.py.
The interpreter runs one program and no warps: what it cannot show is what threads
of a card do when they read a word at different time steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core.registry import operator
from rtaccel.core.stage import Problem
from rtaccel.kernels._persistent import triton_mailbox
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton import partition, persistent
from rtaccel.kernels.mlp.triton.config import KernelConfig, Operands
from rtaccel.kernels.mlp.triton.partition_config import THREADS, Partition, partition_of
from tests.triton_checks.support.sides import DEVICE, INTERPRET, Side

require("triton")

AUTOENCODER = (640, *[128] * 4, 8, *[128] * 4, 640)
TIMEOUT_NS = 60_000_000_000
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def mlp(
    side: Callable[..., Side],
    widths: tuple[int, ...],
    activations: tuple[str, ...],
    idle_looks: int = 0,
    group: int = 0,
) -> tuple[Any, Side]:
    stage = contract.make_stage(widths, activations, 0.1, group_size=group)
    made, ops = side(widths[0], widths[-1], commands=True), Operands.of(stage, KernelConfig.of(stage.attrs), DEVICE)
    made.start(persistent.specialize(stage.attrs), {**ops.arguments(), "idle_looks": idle_looks, "second": 0})
    return stage, made


@pytest.mark.parametrize(
    ("widths", "activations", "group"),
    [
        ((20, 32, 5), ("relu", "none"), 0),
        ((3, 17, 130, 9), ("leaky_relu", "relu", "sigmoid"), 0),
        ((640, 8, 640), ("relu", "none"), 0),
        ((640, 8, 150), ("relu", "none"), 32),
        ((20, 70, 9), ("leaky_relu", "sigmoid"), 16),
    ],
)
def test_a_resident_network_answers(
    widths: tuple[int, ...], activations: tuple[str, ...], group: int, side: Callable[..., Side]
) -> None:
    stage, made = mlp(side, widths, activations, group=group)
    op = operator("mlp")
    for call in range(6):
        x = torch.randn(1, widths[0])
        if call == 3:
            x[0, -1] = float("nan")
        y = torch.full((1, widths[-1]), 7.0)
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        (want,) = op.reference(stage, x)
        atol = op.tolerance(stage, x).atol
        near = (y == want) | (y.isnan() & want.isnan()) | ((y.double() - want.double()).abs() <= atol)
        assert near.all(), call
    assert made.end() == triton_mailbox.ABORTED


def test_a_message_that_is_not_whole_is_waited_for(side: Callable[..., Side]) -> None:
    stage, made = mlp(side, (4, 16, 3), ("relu", "none"))
    x = torch.randn(1, 4)
    raw = x.view(torch.int32)[0].to(torch.int64) & 0xFFFFFFFF
    made.requests[9] = 1 << 32  # no command
    for i in range(3):
        made.requests[5 + i] = (1 << 32) | raw[i]
    threading.Event().wait(0.3)
    assert not made.replies.any()  # the fourth word is missing
    assert made.control[1] == triton_mailbox.RUNNING
    made.requests[8] = (1 << 32) | raw[3]
    for _ in range(600):
        if (made.replies[3:] >> 32 == 1).all():
            break
        threading.Event().wait(0.1)
    y = (made.replies[3:] & 0xFFFFFFFF).to(torch.int32).view(torch.float32)
    assert torch.equal(y[None], operator("mlp").reference(stage, x)[0])
    assert not made.replies[:3].any()
    assert made.end() == triton_mailbox.ABORTED


def test_a_kernel_that_nobody_calls_ends_where_it_may(side: Callable[..., Side]) -> None:
    _, made = mlp(side, (4, 16, 3), ("relu", "none"), idle_looks=3)
    assert made.ended()
    assert int(made.control[1]) == triton_mailbox.IDLE
    assert int(made.control[2]) == 3


def test_the_null_model_gives_its_first_number(side: Callable[..., Side]) -> None:
    made = side(3, 2)
    made.start(persistent.specialize_null(3, 2), {"idle_looks": 0})
    for _ in range(5):
        x, y = torch.randn(3), torch.zeros(2)
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        assert torch.equal(y, x[:1].expand(2))
    assert made.end() == triton_mailbox.ABORTED


def test_what_cannot_stay() -> None:
    for widths, said in (
        ((1030, 16, 8), "up to 1024"),
        ((256, 256, 256, 256), "132 KiB"),
        ((512, 256, 512), "132 KiB"),
        (AUTOENCODER, "132 KiB"),
    ):
        assert said in (persistent.unsupported({"widths": widths}) or "")
    assert persistent.unsupported({"widths": (128,) * 7}) is None
    assert persistent.unsupported({"widths": AUTOENCODER, "group_size": 32}) is None
    assert "not 48" in (persistent.unsupported({"widths": (20, 32, 5), "group_size": 48}) or "")


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

"""The resident kernels in the interpreter, in a thread, with the native core as the host: both sides of the mailbox.

Started by tests/test_triton_interpreter.py. The interpreter runs one program and no warps: what it cannot show is what threads
of a card do when they read a word at different moments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rtaccel._native import Mailbox
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.registry import operator
from rtaccel.kernels._shared import triton_mailbox
from rtaccel.kernels.mlp import contract, triton_resident
from rtaccel.kernels.mlp.triton_form import Form, Operands

require("triton")
if not settings.triton_interpret():
    pytest.skip("on a GPU this is tests/test_resident.py", allow_module_level=True)

AUTOENCODER = (640, *[128] * 4, 8, *[128] * 4, 640)
TIMEOUT_NS = 60_000_000_000
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Side:
    """A kernel in a thread of its own, and its memory."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.requests, self.replies = (torch.zeros(2 * n, dtype=torch.int64) for n in (inputs, outputs))
        self.control = torch.zeros(8, dtype=torch.int64)
        self.box = Mailbox(self.requests.data_ptr(), inputs, self.replies.data_ptr(), outputs)
        self.thread: threading.Thread | None = None

    def start(self, launch: Callable[[], Any]) -> None:
        self.thread = threading.Thread(target=launch, daemon=True)
        self.thread.start()

    def end(self) -> int:
        """Sets the abort word; the state that the kernel leaves."""
        self.control[0] = 1
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive()
        return int(self.control[1])


def mlp(widths: tuple[int, ...], activations: tuple[str, ...], idle_looks: int = 0, group: int = 0) -> tuple[Any, Side]:
    stage = contract.make_stage(widths, activations, 0.1, group_size=group)
    side, ops = Side(widths[0], widths[-1]), Operands.of(stage, Form.of(stage.attrs), "cpu")
    spec = triton_resident.specialise(stage.attrs)
    constants = {**spec.keywords, "LOOK": 4}
    side.start(
        lambda: triton_resident.resident_kernel[(1,)](
            request_ptr=side.requests, reply_ptr=side.replies, control_ptr=side.control, **ops.arguments(),
            idle_looks=idle_looks, **constants,
        )
    )  # fmt: skip
    return stage, side


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
def test_a_resident_network_answers(widths: tuple[int, ...], activations: tuple[str, ...], group: int) -> None:
    stage, side = mlp(widths, activations, group=group)
    op = operator("mlp")
    for call in range(6):
        x = torch.randn(1, widths[0])
        if call == 3:
            x[0, -1] = float("nan")
        y = torch.full((1, widths[-1]), 7.0)
        assert side.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        (want,) = op.reference(stage, x)
        atol = op.tolerance(stage, x).atol
        near = (y == want) | (y.isnan() & want.isnan()) | ((y.double() - want.double()).abs() <= atol)
        assert near.all(), call
    assert side.end() == triton_mailbox.ABORTED


def test_a_message_that_is_not_whole_is_waited_for() -> None:
    stage, side = mlp((4, 16, 3), ("relu", "none"))
    x = torch.randn(1, 4)
    raw = x.view(torch.int32)[0].to(torch.int64) & 0xFFFFFFFF
    for i in range(3):
        side.requests[4 + i] = (1 << 32) | raw[i]
    threading.Event().wait(0.3)
    assert not side.replies.any()  # the fourth word is missing
    assert side.control[1] == triton_mailbox.RUNNING
    side.requests[7] = (1 << 32) | raw[3]
    for _ in range(600):
        if (side.replies[3:] >> 32 == 1).all():
            break
        threading.Event().wait(0.1)
    y = (side.replies[3:] & 0xFFFFFFFF).to(torch.int32).view(torch.float32)
    assert torch.equal(y[None], operator("mlp").reference(stage, x)[0])
    assert not side.replies[:3].any()
    assert side.end() == triton_mailbox.ABORTED


def test_a_kernel_that_nobody_calls_ends_where_it_may() -> None:
    _, side = mlp((4, 16, 3), ("relu", "none"), idle_looks=3)
    assert side.thread is not None
    side.thread.join(60)
    assert not side.thread.is_alive()
    assert int(side.control[1]) == triton_mailbox.IDLE
    assert int(side.control[2]) == 3


def test_the_null_model_gives_its_first_number() -> None:
    side = Side(3, 2)
    spec = triton_resident.specialise_null(3, 2)
    constants = {**spec.keywords, "LOOK": 4}
    side.start(lambda: triton_resident.null_kernel[(1,)](side.requests, side.replies, side.control, 0, **constants))
    for _ in range(5):
        x, y = torch.randn(3), torch.zeros(2)
        assert side.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        assert torch.equal(y, x[:1].expand(2))
    assert side.end() == triton_mailbox.ABORTED


def test_what_cannot_stay() -> None:
    for widths, said in (
        ((1030, 16, 8), "up to 1024"),
        ((256, 256, 256, 256), "132 KiB"),
        ((512, 256, 512), "132 KiB"),
        (AUTOENCODER, "132 KiB"),
    ):
        assert said in (triton_resident.unsupported({"widths": widths}) or "")
    assert triton_resident.unsupported({"widths": (128,) * 7}) is None
    assert triton_resident.unsupported({"widths": AUTOENCODER, "group_size": 32}) is None
    assert "not 48" in (triton_resident.unsupported({"widths": (20, 32, 5), "group_size": 48}) or "")

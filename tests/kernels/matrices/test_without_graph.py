"""Models that no CUDA graph can hold, on a fake device: some of their kernels are PyTorch's, which wait for the GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.support.fake_device import FakeDevice, states_in_graphs
from tests.support.networks.call import Call

L = torch.linalg
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": lambda x: L.svdvals(x * 2).sum(-1), "eigvalsh": lambda x: L.eigvalsh(x @ x.mT), "qr": lambda x: L.qr(x)[0].mT,
    "matrix_exp": lambda x: torch.matrix_exp(x * 0.5),
}  # fmt: skip


@pytest.mark.parametrize("op", CALLS)
def test_it_is_launched_kernel_by_kernel_and_said(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: device)
    model = Call(CALLS[op]).eval()
    eager = rt.compile(model, torch.randn(3, 4, 4), backend="portable", strict=True)
    assert isinstance(eager, CompiledModel)
    fast = CompiledModel(eager._program, Options(3, "cpu", "portable", 0, "Net", mode="graph"), eager._argument_names)
    assert device.captures == 0
    for rows in (3, 5):
        x = torch.randn(rows, 4, 4)
        assert torch.equal(fast(x), eager(x))
    assert f"no CUDA graph: {op} in PyTorch, which waits for the GPU" in fast.explain(measure=False)


class Kept(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.sum = self.sum * 0.5 + x
        return L.svdvals(self.sum)


def test_a_model_with_state_is_refused_by_name() -> None:
    """Its state is in a graph."""
    with states_in_graphs("portable"), pytest.raises(rt.UnsupportedProblem, match="svd on cpu"):
        rt.compile(Kept().eval(), torch.randn(1, 3, 3))

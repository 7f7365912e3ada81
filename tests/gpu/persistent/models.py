"""Small models on persistent kernels, lowered once: for tests on a device that a class plays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent_choice, persistent_stacks
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel


@cache
def lowered_chain(width: int) -> CompiledModel:
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 5)).eval()
    x = torch.randn(1, 20)
    plain = rt.compile(model, (x,), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 20)])
    assert isinstance(plain, CompiledModel)
    return plain


@cache
def lowered_large_chain() -> CompiledModel:
    """More than one multiprocessor holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128)).eval()
    plain = rt.compile(
        model, (torch.randn(1, 256),), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 256)]
    )
    assert isinstance(plain, CompiledModel)
    return plain


@cache
def lowered_stream(features: int, hidden: int, layers: int) -> StreamModel:
    torch.manual_seed(features)
    return rt.stream(
        Net(features, hidden, layers).eval(), torch.randn(1, features), scheme="w8a8",
        calibration=[torch.randn(2, 4, features)],
    )  # fmt: skip


SMALL, LARGE = (40, 24, 1), (250, 200, 3)


class Net(nn.Module):
    def __init__(self, features: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.stack, self.head = nn.LSTM(features, hidden, layers, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stack(x)[0][:, -1])
        return y


def stream(features: int = 40, hidden: int = 24, layers: int = 1) -> StreamModel:
    """By the kernel in CUDA C++."""
    plain = lowered_stream(features, hidden, layers)
    options = Options(1, title="Net, streamed", states=plain._options.states, mode="persistent")
    with persistent_choice.only(persistent_stacks.CUDA):
        return StreamModel(plain._program, options, ("x_t",))


def reloaded(live: StreamModel, state: dict[str, Tensor]) -> None:
    with persistent_choice.only(persistent_stacks.CUDA):
        live.load_state_dict(state)


def call(model: CompiledModel) -> Tensor:
    return model(torch.randn(1, 20))


Make = Callable[..., CompiledModel]

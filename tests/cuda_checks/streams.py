"""Recurrent streams of every kind under the kernel in CUDA C++ on a CPU (on_host.py), and the same on the CPU's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda import choice as cuda_choice
from rtaccel.kernels.recurrent.cuda.config import Head, KernelConfig
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.runtime.gpu import persistent_stacks
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks import on_host


class Net(nn.Module):
    def __init__(self, stack: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.stack, self.head = stack, head

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(x)[0][:, -1]
        return y if self.head is None else self.head(y)


class Partition(NamedTuple):
    """Programs, lanes, steps in registers, warps that poll; the first half of the other steps is in shared memory."""

    parts: int
    lanes: int
    kept: int
    pollers: int = 0
    cluster: bool = False
    mapped: bool = False


def layout_of(cut: Partition) -> Callable[..., KernelConfig]:
    """In the place of `select_config`: a form of this cut."""

    def form(geometry: Geometry, inputs: int, gates: int, group: int, head: Head | None, card: Card) -> KernelConfig:
        units = -(-geometry.hidden // (4 * cut.parts)) * 4
        found = KernelConfig(
            geometry, inputs, gates, group, head, units, cut.parts, cut.lanes, head_held=cut.parts < 3, pollers=cut.pollers,
            cluster=cut.cluster, mapped=cut.mapped,
        )  # fmt: skip
        kept = min(cut.kept, found.steps)
        return replace(found, kept=kept, held=(found.steps - kept + 1) // 2)

    return form


def in_place_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., on_host.HostDevice]]:
    """Puts a device in the place of the GPU, with a form of this cut."""
    yield from on_host.in_place_of_a_gpu(monkeypatch, persistent_stacks.CUDA, cuda_choice, "select_config", layout_of)


def streams(model: nn.Module, features: int, scheme: Any = "w8a8") -> tuple[StreamModel, StreamModel]:
    """(the stream on a persistent kernel, the same on the CPU)."""
    torch.manual_seed(features)
    calibration = [torch.randn(8, 5, features)]
    plain = rt.stream(model.eval(), torch.randn(1, features), scheme=scheme, calibration=calibration)
    options = Options(1, title="Net, streamed", states=plain._options.states, mode="persistent")
    return StreamModel(plain._program, options, ("x_t",)), plain


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(77.0), b.nan_to_num(77.0)) and bool((a.isnan() == b.isnan()).all())


CASES = {
    "lstm-one-program": (lambda: Net(nn.LSTM(5, 7, 3, batch_first=True), nn.Linear(7, 2)), 5, "w8a8", Partition(1, 4, 7)),
    "lstm-int4-two": (lambda: Net(nn.LSTM(70, 42, 2, batch_first=True), nn.Linear(42, 3)), 70, "w4a8", Partition(2, 2, 9)),
    "gru-three": (lambda: Net(nn.GRU(33, 10, 2, batch_first=True), None), 33, "w8a8", Partition(3, 32, 1)),
    "gru-int4-groups": (
        lambda: Net(nn.GRU(100, 70, batch_first=True), nn.Sequential(nn.Linear(70, 9), nn.GELU())), 100,
        rt.W4A8(group_size=64, activation="static"), Partition(3, 1, 100),
    ),
}  # fmt: skip
CASES |= {
    f"{name}-polled": (*case[:3], case[3]._replace(pollers=4 if "one" in name else 3)) for name, case in CASES.items()
}
CASES |= {
    "lstm-int4-two-cluster": (*CASES["lstm-int4-two"][:3], Partition(2, 2, 9, 3, True)),
    "gru-three-cluster": (*CASES["gru-three"][:3], Partition(3, 32, 1, 0, True)),
    "lstm-one-program-mapped": (*CASES["lstm-one-program"][:3], Partition(1, 4, 7, mapped=True)),
    "lstm-int4-two-mapped": (*CASES["lstm-int4-two"][:3], Partition(2, 2, 9, mapped=True)),
    "gru-three-cluster-mapped": (*CASES["gru-three"][:3], Partition(3, 32, 1, 0, True, True)),
    "gru-int4-groups-cluster": (*CASES["gru-int4-groups"][:3], Partition(3, 1, 100, 4, True)),
}


def staying(plain: StreamModel) -> StreamModel:
    return StreamModel(plain._program, replace(plain._options, mode="persistent"), ("x_t",))


def other_weights(plain: StreamModel, seed: int) -> dict[str, Tensor]:
    """A state with the static scales of this stream: int8 weights shuffled, float32 ones (scales, biases) changed by a part."""
    make = torch.Generator().manual_seed(seed)
    state = {key: value for key, value in plain.state_dict().items() if key != "_extra_state"}
    for key, entry in plain._state.entries.items():
        value = state[key]
        if entry.kind != "tensor":
            continue
        if value.dtype == torch.int8 or value.dtype == torch.uint8:
            state[key] = value.flatten()[torch.randperm(value.numel(), generator=make)].view_as(value)
        elif value.is_floating_point():
            changed = value * (0.75 + 0.5 * torch.rand(value.shape, generator=make))
            state[key] = changed.bfloat16().float() if "group_scale" in key else changed
    return state


def first_answers(plain: StreamModel, states: list[dict[str, Tensor]], x: Tensor) -> list[Tensor]:
    """The answer to x behind a reset, by each of these weights; the stream ends with the last."""
    answers: list[Tensor] = []
    for state in states:
        plain.swap(state)
        plain.reset()
        answers.append(plain.step(x))
    return answers

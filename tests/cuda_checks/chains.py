"""Chains of linear layers under the kernel in CUDA C++ on a CPU (on_host.py), and the same on the CPU's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.mlp.cuda import config as cuda_config
from rtaccel.kernels.mlp.cuda.config import KernelConfig
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent_chains
from rtaccel.runtime.options import Options
from tests.cuda_checks import on_host


@dataclass(frozen=True)
class Case:
    """A network, its format, and its layout: threads, lanes of each layer, steps of each in registers, warps that poll."""

    model: Callable[[], nn.Module]
    inputs: int
    scheme: Any
    threads: int
    lanes: tuple[int, ...]
    kept: tuple[int, ...]
    pollers: int = 4
    parts: int = 1

    def config(self, widths: tuple[int, ...], activations: tuple[str, ...], group: int) -> KernelConfig:
        found = KernelConfig(
            widths, activations, group, self.threads, self.lanes, pollers=self.pollers, parts=self.parts
        )
        steps = [found.steps_of(i) for i in found.layers]
        return replace(found, kept=tuple(map(min, self.kept, steps)))


def mlp(*widths: int, between: Callable[[], nn.Module] = nn.ReLU, behind: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        layers += [nn.Linear(k, n), between()]
    return nn.Sequential(*layers[:-1], *([behind] if behind is not None else []))


CASES = {
    "int8": Case(lambda: mlp(70, 90, 33, 5), 70, "w8a8", 64, (2, 1, 8), (3, 1, 0)),
    "int8-one-input": Case(lambda: mlp(1, 3, 40), 1, "w8a8", 32, (4, 1), (9, 0), 2),
    "int8-last": Case(
        lambda: mlp(31, 65, 7, between=lambda: nn.LeakyReLU(0.2), behind=nn.GELU()), 31, "w8a8", 64, (1, 32), (1, 1)
    ),
    "int4": Case(lambda: mlp(100, 70, 9), 100, rt.W4A8(group_size=32, activation="static"), 64, (2, 4), (2, 1)),
    "int4-groups": Case(
        lambda: mlp(200, 150, 40, 3), 200, rt.W4A8(group_size=64, activation="static"), 96, (1, 4, 2), (5, 2, 1), 3
    ),
    "cluster-int8": Case(lambda: mlp(70, 90, 33, 5), 70, "w8a8", 64, (2, 1, 8), (3, 1, 0), parts=3),
    "cluster-int8-none-behind": Case(
        lambda: mlp(31, 65, 7, between=lambda: nn.LeakyReLU(0.2), behind=nn.GELU()), 31, "w8a8", 64, (1, 32), (1, 1), parts=4
    ),
    "cluster-int4": Case(
        lambda: mlp(200, 150, 40, 3), 200, rt.W4A8(group_size=64, activation="static"), 96, (1, 4, 2), (2, 2, 1), 3, 2
    ),
}  # fmt: skip
"""In the second cluster two of four blocks have no outputs of the last layer, and nobody waits for them there."""


def in_place_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., on_host.HostDevice]]:
    """Puts a device in the place of the GPU, with the layout of a case."""

    def layout_of(case: Case) -> Callable[..., KernelConfig]:
        def config_of(attrs: Any, of: Card | None = None) -> KernelConfig:
            return case.config(tuple(attrs["widths"]), tuple(attrs["activations"]), int(attrs.get("group_size", 0)))

        return config_of

    yield from on_host.in_place_of_a_gpu(monkeypatch, persistent_chains.CUDA, cuda_config, "config_of", layout_of)


def chains(case: Case) -> tuple[CompiledModel, CompiledModel]:
    """(the network on a persistent kernel, the same on the CPU)."""
    torch.manual_seed(case.inputs)
    model, x, data = case.model().eval(), torch.randn(1, case.inputs), [torch.randn(64, case.inputs)]
    plain = rt.compile(model, (x,), scheme=case.scheme, calibration=data)
    assert isinstance(plain, CompiledModel)
    return staying(plain), plain


def staying(plain: CompiledModel) -> CompiledModel:
    return CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)

"""The networks of the comparison, as a user writes them in torch; their weights are drawn anew from a fixed seed.

Sizes of control, sensing, audio and market-data work at batch 1, and single layers with more rows. `macs` counts the
multiplications of one call. Why these: docs/explanation/performance.md.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers.base import MODELS, LeftOut


@dataclass(frozen=True)
class Model:
    """x, states: shapes of one call's input and of the states that go in and come out. nested: states travel as one tuple."""

    name: str
    about: str
    make: Callable[[], nn.Module]
    x: tuple[int, ...]
    macs: int
    states: tuple[tuple[int, ...], ...] = ()
    nested: bool = False

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval().requires_grad_(False)

    def arguments(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple:
        return (x, tuple(states)) if self.nested else (x, *states)


def flatten(result: object) -> tuple[Tensor, ...]:
    """(y, (h, c)), (y, h) or y -> a flat tuple of tensors."""
    if isinstance(result, Tensor):
        return (result,)
    assert isinstance(result, (tuple, list))
    return tuple(t for part in result for t in flatten(part))


class Flat(nn.Module):
    """A network with its states as plain arguments and results, for exporters that do not nest."""

    def __init__(self, model: Model, module: nn.Module) -> None:
        super().__init__()
        self.module, self.nested = module, model.nested

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...] | Tensor:
        result = flatten(self.module(x, tuple(states)) if self.nested else self.module(x, *states))
        return result if len(result) > 1 else result[0]


def mlp(widths: tuple[int, ...], activation: type[nn.Module], last: nn.Module | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), activation()]
    layers.pop()
    return nn.Sequential(*layers, *([last] if last is not None else []))


def ad01() -> nn.Sequential:
    """The autoencoder with the trained weights of MLPerf Tiny."""
    networks = _networks()
    folder = networks.ad01_folder()
    if folder is None:
        raise LeftOut("the test data with the trained weights is not there (RTACCEL_TEST_DATA)")
    return networks.ad01(folder)


def ad01_windows() -> Tensor:
    networks = _networks()
    return networks.ad01_windows(networks.ad01_folder())


def _networks() -> ModuleType:
    bench = str(Path(__file__).parents[1])
    if bench not in sys.path:
        sys.path.append(bench)
    import networks

    return networks


class GruKws(nn.Module):
    """A keyword spotter's recurrent step: GRU and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(10, 154, batch_first=True)
        self.head = nn.Linear(154, 12)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, h)
        return self.head(y), h


class CausalBlock(nn.Module):
    """Two causal convolutions of kernel 3 with ReLU, and a residual (through a 1x1 convolution where widths differ)."""

    def __init__(self, width_in: int, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.first = nn.Conv1d(width_in, width, 3, dilation=dilation)
        self.second = nn.Conv1d(width, width, 3, dilation=dilation)
        self.residual = nn.Conv1d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pad = (2 * self.dilation, 0)
        y = F.relu(self.first(F.pad(x, pad)))
        y = F.relu(self.second(F.pad(y, pad)))
        return F.relu(y + self.residual(x))


class Tcn(nn.Module):
    """A temporal convolution network over a window; its answer is that at the newest sample."""

    def __init__(self, inputs: int = 14, width: int = 48, dilations: tuple[int, ...] = (1, 2, 4, 8)) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(CausalBlock(width if i else inputs, width, d) for i, d in enumerate(dilations)))
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class TcnStep(nn.Module):
    """The same network a sample at a time: each convolution keeps the 2 x dilation columns that came before."""

    def __init__(self, tcn: Tcn) -> None:
        super().__init__()
        self.tcn = tcn

    def forward(self, x: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        for i, block in enumerate(self.tcn.blocks):
            assert isinstance(block, CausalBlock)
            y = x
            for conv, before in zip((block.first, block.second), past[2 * i : 2 * i + 2]):
                column = torch.cat((before, y), dim=-1)
                kept.append(column[..., 1:])
                y = F.relu(conv(column))
            x = F.relu(y + block.residual(x))
        return (self.tcn.head(x[..., 0]), *kept)


def tcn_states(inputs: int = 14, width: int = 48) -> tuple[tuple[int, ...], ...]:
    widths = [inputs] + [width] * 7
    return tuple((1, w, 2 * d) for w, d in zip(widths, (1, 1, 2, 2, 4, 4, 8, 8)))


def ds_cnn(width: int = 64, blocks: int = 4) -> nn.Sequential:
    """A keyword spotter of depthwise separable convolutions over 49 x 10 MFCC features."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1)), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(blocks):
        layers += [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training, not the zeros and ones of a fresh layer
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net


def encoder() -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(384, 6, 1536, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


def _lstm(name: str, layers: int, width: int, inputs: int) -> Model:
    macs = sum(4 * width * ((inputs if i == 0 else width) + width) for i in range(layers))
    state = (layers, 1, width)
    return Model(
        name, f"LSTM {layers}x{width} on {inputs} features, one step", lambda: nn.LSTM(inputs, width, layers, batch_first=True),
        (1, 1, inputs), macs, (state, state), True,
    )  # fmt: skip


def _linear(rows: int, width: int) -> Model:
    about = f"one {width} x {width} layer, {rows} row{'s' if rows > 1 else ''}"
    return Model(f"lin_{rows}x{width}", about, lambda: nn.Linear(width, width), (rows, width), rows * width**2)


def pruned(kept: Callable[[Tensor], Tensor]) -> nn.Linear:
    """A layer with zeros wherever `kept`, of random numbers in 0..1, is not."""
    layer = nn.Linear(1024, 1024)
    with torch.no_grad():
        layer.weight *= kept(torch.rand(1024, 1024))
    return layer


def some(part: float, block: int = 1) -> Callable[[Tensor], Tensor]:
    """This part of the blocks, those with the largest numbers in their corners."""

    def kept(random: Tensor) -> Tensor:
        corners = random[::block, ::block]
        least = corners.flatten().sort().values[round((1 - part) * corners.numel())]
        return (corners >= least).repeat_interleave(block, 0).repeat_interleave(block, 1)

    return kept


def two_of_four(random: Tensor) -> Tensor:
    return (random.view(1024, 256, 4).argsort(2).argsort(2) < 2).view(1024, 1024)


def _sparse(name: str, about: str, kept: Callable[[Tensor], Tensor]) -> Model:
    """macs: with the zeros, as the layer is written."""
    return Model(name, f"one 1024 x 1024 layer, 1 row, {about}", lambda: pruned(kept), (1, 1024), 1024**2)


AD = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
AD_MACS = sum(k * n for k, n in itertools.pairwise(AD))
TCN_COLUMN = 14 * 48 * 3 + 14 * 48 + 7 * 48 * 48 * 3
"""Multiplications of the TCN's convolutions at one sample."""
CNN_MACS = 25 * 5 * 64 * (10 * 4 + 4 * (3 * 3 + 64)) + 64 * 12
ENCODER_MACS = 6 * 32 * (12 * 384**2 + 2 * 32 * 384)

TABLE = (
    Model("mlp_ad", "autoencoder 640-128x4-8-128x4-640, ReLU", lambda: mlp(AD, nn.ReLU), (1, 640), AD_MACS),
    Model("ad01", "the same with BatchNorm and trained weights (MLPerf Tiny), real input", ad01, (1, 640), AD_MACS),
    Model(
        "policy", "control policy 48-512-256-128-12, ELU", lambda: mlp((48, 512, 256, 128, 12), nn.ELU), (1, 48), 189952,
    ),
    Model(
        "jet", "trigger 16-64-32-32-5, ReLU, softmax", lambda: mlp((16, 64, 32, 32, 5), nn.ReLU, nn.Softmax(-1)),
        (1, 16), 4256,
    ),
    _lstm("lstm_a", 2, 64, 32),
    _lstm("lstm_b", 3, 128, 64),
    _lstm("lstm_c", 4, 512, 128),
    Model(
        "gru_kws", "GRU 154 on 10 features and a linear head to 12, one step", GruKws, (1, 1, 10), 77616, ((1, 1, 154),),
    ),
    Model(
        "tcn", "causal TCN, 48 filters, dilations 1-8, window of 48, newest output", Tcn,
        (1, 14, 48), 48 * TCN_COLUMN + 48,
    ),
    Model(
        "tcn_step", "the same, one sample in, states kept", lambda: TcnStep(Tcn()),
        (1, 14, 1), TCN_COLUMN + 48, tcn_states(),
    ),
    Model("cnn_kws", "DS-CNN on 49 x 10 features, 64 filters, 4 blocks", ds_cnn, (1, 1, 49, 10), CNN_MACS),
    Model("encoder", "transformer encoder, 6 layers, d 384, 6 heads, 32 tokens", encoder, (1, 32, 384), ENCODER_MACS),
    _linear(1, 256), _linear(1, 1024), _linear(1, 4096), _linear(4, 1024), _linear(16, 1024), _linear(64, 1024),
    _sparse("sparse_90", "any 90 % of the weights zero", some(0.1)),
    _sparse("sparse_95", "any 95 % of the weights zero", some(0.05)),
    _sparse("blocks_80", "80 % of the blocks of 16 x 16 zero", some(0.2, 16)),
    _sparse("sparse_24", "two of every four weights zero", two_of_four),
)  # fmt: skip

BY_NAME = {model.name: model for model in TABLE}
assert tuple(BY_NAME) == MODELS

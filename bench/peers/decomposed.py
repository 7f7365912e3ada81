"""The same networks decomposed for converters that have no recurrent layer, or a slow one-dimensional convolution.

Numbers are the same; only the way they are written differs. States are one [1, H] tensor per layer and kind (see
`base.split`): runtimes without an LSTM of their own are faster that way than with slices of one tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers.models import BY_NAME, CausalBlock, Flat, GruKws, Tcn, TcnStep

KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LstmCells(nn.Module):
    """One matrix product per layer on [x, h]; gates in the order i, f, o, g so that one sigmoid covers three of them.

    The output is the last layer's hidden state, which is not given twice.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.width = lstm.hidden_size
        self.layers = nn.ModuleList()
        order = torch.cat([torch.arange(g * self.width, (g + 1) * self.width) for g in (0, 1, 3, 2)])
        for i in range(lstm.num_layers):
            w_x, w_h, b_x, b_h = (lstm.get_parameter(f"{kind}_l{i}") for kind in KINDS)
            layer = nn.Linear(w_x.shape[1] + self.width, 4 * self.width)
            layer.weight = nn.Parameter(torch.cat((w_x, w_h), dim=1)[order], requires_grad=False)
            layer.bias = nn.Parameter((b_x + b_h)[order], requires_grad=False)
            self.layers.append(layer)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        n, width = len(self.layers), self.width
        value, hidden, cells = x.reshape(1, -1), [], []
        for layer, h, c in zip(self.layers, states[:n], states[n:]):
            gates = layer(torch.cat((value, h), dim=1))
            ifo = torch.sigmoid(gates[:, : 3 * width])
            c = ifo[:, width : 2 * width] * c + ifo[:, :width] * torch.tanh(gates[:, 3 * width :])
            value = ifo[:, 2 * width :] * torch.tanh(c)
            hidden.append(value)
            cells.append(c)
        return (*hidden, *cells)


class GruCell(nn.Module):
    """r and z from one product on [x, h]; n needs its two halves apart."""

    def __init__(self, net: GruKws) -> None:
        super().__init__()
        gru, width = net.gru, net.gru.hidden_size
        self.width, self.head = width, net.head
        w_x, w_h, b_x, b_h = (gru.get_parameter(f"{kind}_l0") for kind in KINDS)
        self.rz = _layer(torch.cat((w_x[: 2 * width], w_h[: 2 * width]), dim=1), (b_x + b_h)[: 2 * width])
        self.nx, self.nh = _layer(w_x[2 * width :], b_x[2 * width :]), _layer(w_h[2 * width :], b_h[2 * width :])

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = x.reshape(1, -1)
        rz = torch.sigmoid(self.rz(torch.cat((x, h), dim=1)))
        new = torch.tanh(self.nx(x) + rz[:, : self.width] * self.nh(h))
        h = new + rz[:, self.width :] * (h - new)
        return self.head(h).reshape(1, 1, -1), h


def _layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return layer


def flat_conv(conv: nn.Conv1d) -> nn.Conv2d:
    """A Conv1d as a Conv2d of height 1: no transposes around it in runtimes that only have the latter."""
    flat = nn.Conv2d(conv.in_channels, conv.out_channels, (1, conv.kernel_size[0]), dilation=(1, conv.dilation[0]))
    flat.weight = nn.Parameter(conv.weight[:, :, None], requires_grad=False)
    flat.bias = conv.bias
    return flat


class FlatTcn(nn.Module):
    """The TCN over a window, of height-1 Conv2d. `step`: a sample at a time with the states of `TcnStep`."""

    def __init__(self, tcn: Tcn, step: bool) -> None:
        super().__init__()
        self.step, self.head = step, tcn.head
        self.pads = [2 * b.dilation for b in tcn.blocks if isinstance(b, CausalBlock) for _ in "12"]
        blocks = [b for b in tcn.blocks if isinstance(b, CausalBlock)]
        self.convs = nn.ModuleList(flat_conv(c) for b in blocks for c in (b.first, b.second))
        self.residuals = nn.ModuleList(
            flat_conv(b.residual) if isinstance(b.residual, nn.Conv1d) else nn.Identity() for b in blocks
        )

    def forward(self, x: Tensor, *past: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, kept = x[:, :, None], []
        for i, residual in enumerate(self.residuals):
            y = x
            for j in (2 * i, 2 * i + 1):
                column = torch.cat((past[j][:, :, None], y), dim=-1) if self.step else F.pad(y, (self.pads[j], 0))
                kept.append(column[:, :, 0, 1:])
                y = F.relu(self.convs[j](column))
            x = F.relu(y + residual(x))
        y = self.head(x[:, :, 0, -1])
        return (y, *kept) if self.step else y


def decomposed(name: str) -> nn.Module:
    """The network in the form above where it has one, flat as it is where not."""
    model = BY_NAME[name]
    module = model.module()
    if isinstance(module, nn.LSTM):
        form: nn.Module = LstmCells(module)
    elif isinstance(module, GruKws):
        form = GruCell(module)
    elif isinstance(module, Tcn):
        form = FlatTcn(module, step=False)
    elif isinstance(module, TcnStep):
        form = FlatTcn(module.tcn, step=True)
    else:
        form = Flat(model, module)
    return form.eval().requires_grad_(False)


def decomposed_states(name: str) -> int:
    """How many states the decomposed form takes layer by layer; 0 where it takes them as the network does."""
    model = BY_NAME[name]
    return len(model.states) if name.startswith(("lstm", "gru")) else 0


def example(name: str, whole: bool = False) -> tuple[Tensor, ...]:
    """Random arguments of the decomposed form, or (whole) of the flat one."""
    model = BY_NAME[name]
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(model.x, generator=draw)
    states = [torch.randn(shape, generator=draw) for shape in model.states]
    if whole or not decomposed_states(name):
        return (x, *states)
    return (x, *(layer for state in states for layer in state))

"""Operations with weights: every layer that rtaccel has a kernel for, and some that it has none for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.generators.ops import Args, Shape, add, layer, one_of

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 33)


class Holder(nn.Module):
    """Tensors that a model holds: parameters, or buffers."""

    def __init__(self, buffers: bool = False, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if buffers:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))


def normed(norm: Any) -> Any:
    """A norm with running statistics and weights that are not those it was made with."""
    with torch.no_grad():
        for name in ("running_mean", "weight", "bias"):
            if getattr(norm, name, None) is not None:
                getattr(norm, name).normal_(0.5)
        if getattr(norm, "running_var", None) is not None:
            norm.running_var.uniform_(0.5, 2)
    return norm


layer(
    "linear",
    (1, 2, 3),
    lambda s, a: nn.Linear(s[-1], a["out"], bias=a["bias"]),
    args=one_of(out=WIDTHS, bias=[True, False]),
)
layer(
    "layernorm",
    (1, 2),
    lambda s, a: normed(nn.LayerNorm(s[-1], elementwise_affine=a["affine"])),
    args=one_of(affine=[True, False]),
)
layer("rmsnorm", (1, 2), lambda s, a: normed(nn.RMSNorm(s[-1])))
layer("batchnorm", (1,), lambda s, a: normed(nn.BatchNorm1d(s[0])))
layer("batchnorm1d", (2,), lambda s, a: normed(nn.BatchNorm1d(s[0])))
layer("batchnorm2d", (3,), lambda s, a: normed(nn.BatchNorm2d(s[0])))
layer("groupnorm", (2, 3), lambda s, a: normed(nn.GroupNorm(1, s[0])), family="torch")


# -- products and sums with what the model holds ----------------------------------------------------------------------


def _vector(s: Shape, a: Args) -> Holder:
    return Holder(a["buffer"], p=torch.randn(s[-1]))


BUFFER = one_of(buffer=[True, False])
add("add_row", "any", (1, 2, 3), lambda m, a, x: x + m.p, make=_vector, args=BUFFER)
add("mul_row", "any", (1, 2, 3), lambda m, a, x: m.p * x, make=_vector, args=BUFFER)
add("sub_row", "any", (1, 2), lambda m, a, x: x - m.p, make=_vector, args=BUFFER)
add("div_row", "any", (1, 2), lambda m, a, x: x / (m.p.abs() + 0.5), make=_vector, args=BUFFER)
add(
    "add_table",
    "any",
    (2,),
    lambda m, a, x: x + m.p,
    make=lambda s, a: Holder(a["buffer"], p=torch.randn(s)),
    args=BUFFER,
)
add(
    "mul_table",
    "any",
    (2,),
    lambda m, a, x: x * m.p,
    make=lambda s, a: Holder(a["buffer"], p=torch.randn(s)),
    args=BUFFER,
)
add("matmul", "any", (1, 2), lambda m, a, x: x @ m.p, make=lambda s, a: Holder(False, p=torch.randn(s[-1], a["out"]) / 3),
    args=one_of(out=WIDTHS))  # fmt: skip
add("addmm", "any", (1,), lambda m, a, x: torch.addmm(m.b, x, m.p),
    make=lambda s, a: Holder(False, p=torch.randn(s[-1], a["out"]) / 3, b=torch.randn(a["out"])),
        args=one_of(out=WIDTHS))  # fmt: skip
add("tied", "any", (1, 2), lambda m, a, x: F.linear(torch.tanh(F.linear(x, m.p)), m.p.t()),
    make=lambda s, a: Holder(False, p=torch.randn(a["out"], s[-1]) / 3), args=one_of(out=WIDTHS))  # fmt: skip
add("bilinear", "torch", (1,), lambda m, a, x: m(x, x), make=lambda s, a: nn.Bilinear(s[0], s[0], 3))

# -- convolutions and pooling -----------------------------------------------------------------------------------------

CONV = {"out": (1, 2, 4, 6), "kernel": (1, 2, 3, 5), "stride": (1, 1, 2), "padding": (0, 1, 2), "dilation": (1, 1, 2),
        "bias": (True, False), "mode": ("zeros", "zeros", "reflect", "circular", "replicate")}  # fmt: skip


def _conv(kind: Any) -> Any:
    return lambda s, a: kind(
        s[0], a["out"], a["kernel"], a["stride"], a["padding"], a["dilation"], bias=a["bias"], padding_mode=a["mode"]
    )


layer("conv1d", (2,), _conv(nn.Conv1d), args=one_of(**CONV))
layer("conv2d", (3,), _conv(nn.Conv2d), args=one_of(**CONV))
layer(
    "wide2d",
    (3,),
    lambda s, a: nn.Sequential(
        nn.Conv2d(s[0], 16, 1), nn.ZeroPad2d(4), nn.Conv2d(16, a["out"], 3, padding=a["padding"])
    ),
    args=one_of(out=(16, 19), padding=(0, 1)),
)
layer(
    "depthwise1d",
    (2,),
    lambda s, a: nn.Conv1d(s[0], s[0], a["kernel"], padding="same", groups=s[0]),
    args=one_of(kernel=(1, 2, 3)),
)
layer(
    "depthwise2d",
    (3,),
    lambda s, a: nn.Conv2d(s[0], s[0], a["kernel"], padding="same", groups=s[0]),
    args=one_of(kernel=(1, 2, 3)),
)
add("causal", "any", (2,), lambda m, a, x: m(F.pad(x, (2 * a["dilation"], 0))),
    make=lambda s, a: nn.Conv1d(s[0], a["out"], 3, dilation=a["dilation"]), args=one_of(out=(1, 3, 5), dilation=(1,
        2)))  # fmt: skip
POOL = {"kernel": (2, 3), "stride": (1, 2), "padding": (0, 1), "up": (False, False, True)}
for _name, _rank, _kind in (
    ("max1d", 2, nn.MaxPool1d),
    ("max2d", 3, nn.MaxPool2d),
    ("avg1d", 2, nn.AvgPool1d),
    ("avg2d", 3, nn.AvgPool2d),
):
    layer(
        _name,
        (_rank,),
        lambda s, a, kind=_kind: kind(a["kernel"], a["stride"], a["padding"], ceil_mode=a["up"]),
        args=one_of(**POOL),
    )
layer("global1d", (2,), lambda s, a: nn.AdaptiveAvgPool1d(1))
layer("global2d", (3,), lambda s, a: nn.AdaptiveAvgPool2d(1))
TO = {"to": (1, 2, 3, 5)}
layer("adaptive", (2,), lambda s, a: nn.AdaptiveMaxPool1d(a["to"]), args=one_of(**TO))
layer("adaptive2d", (3,), lambda s, a: nn.AdaptiveAvgPool2d((a["to"], 2)), args=one_of(**TO))
UP = {"kernel": (1, 2, 3, 4), "stride": (1, 2, 3), "padding": (0, 1), "dilation": (1, 1, 2), "out": (1, 2, 4)}


def _transposed(kind: Any) -> Any:
    return lambda s, a: kind(
        s[0], a["out"], a["kernel"], a["stride"], min(a["padding"], a["dilation"] * (a["kernel"] - 1) // 2), a["stride"] - 1,
        dilation=a["dilation"],
    )  # fmt: skip


layer("transposed1d", (2,), _transposed(nn.ConvTranspose1d), args=one_of(**UP))
layer("transposed2d", (3,), _transposed(nn.ConvTranspose2d), args=one_of(**UP))

# -- recurrent layers, attention, tables ------------------------------------------------------------------------------

RECURRENT = {"hidden": (1, 3, 4, 8, 9), "layers": (1, 1, 2), "both": (False, True)}


def _lstm(s: Shape, a: Args) -> nn.Module:
    return nn.LSTM(s[-1], a["hidden"], a["layers"], batch_first=True, bidirectional=a["both"])


def _gru(s: Shape, a: Args) -> nn.Module:
    return nn.GRU(s[-1], a["hidden"], a["layers"], batch_first=True, bidirectional=a["both"])


add("lstm", "any", (2,), lambda m, a, x: m(x)[0], make=_lstm, args=one_of(**RECURRENT))
add("gru", "any", (2,), lambda m, a, x: m(x)[0], make=_gru, args=one_of(**RECURRENT))
add("lstm_last", "any", (2,), lambda m, a, x: m(x)[0][:, -1], make=_lstm, args=one_of(**RECURRENT))
add("gru_state", "any", (2,), lambda m, a, x: m(x)[1][-1], make=_gru, args=one_of(**RECURRENT))
add("lstm_state", "any", (2,), lambda m, a, x: m(x)[1][0][-1], make=_lstm, args=one_of(**RECURRENT))
add("lstm_all", "any", (2,), lambda m, a, x: (m(x)[0], m(x)[1][1][0]), make=_lstm, args=one_of(**RECURRENT))
add("rnn", "windows", (2,), lambda m, a, x: m(x)[0], make=lambda s, a: nn.RNN(s[-1], 3, batch_first=True))


def _cells(m: Any, a: Args, x: Tensor) -> Any:
    """A state is between -1 and 1, as such a layer gives it: int8 holds no other."""
    return m(x, torch.tanh(x))


layer_cell = lambda s, a: nn.GRUCell(s[-1], s[-1])  # noqa: E731
add("gru_cell", "any", (1,), _cells, make=layer_cell)
add(
    "lstm_cell",
    "any",
    (1,),
    lambda m, a, x: m(x, (torch.tanh(x), torch.tanh(x))),
    make=lambda s, a: nn.LSTMCell(s[-1], s[-1]),
)


class Heads(nn.Module):
    """Attention written with products and a softmax."""

    def __init__(self, width: int, heads: int, causal: bool, by_hand: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal, self.by_hand = heads, causal, by_hand

    def forward(self, x: Tensor) -> Tensor:
        b, t, e = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        if not self.by_hand:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) / (e // self.heads) ** 0.5, -1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, e))


def heads(width: int) -> int:
    return 2 if width % 2 == 0 else 1


layer("attention", (2,), lambda s, a: Heads(s[-1], heads(s[-1]), a["causal"], a["by_hand"]),
      args=one_of(causal=(True, False), by_hand=(True, False)))  # fmt: skip
add("mha", "any", (2,), lambda m, a, x: m(x, x, x, need_weights=False)[0],
    make=lambda s, a: nn.MultiheadAttention(s[-1], heads(s[-1]), batch_first=True))  # fmt: skip
layer("encoder", (2,), lambda s, a: nn.TransformerEncoderLayer(s[-1], heads(s[-1]), 9, batch_first=True, norm_first=a["first"],
                                                             activation=a["activation"]),
      args=one_of(first=(True, False), activation=("relu", "gelu")))  # fmt: skip
ROWS = 11
"""Of the table of an embedding: what indices are drawn below."""
layer("embedding", (0, 1), lambda s, a: nn.Embedding(ROWS, a["out"]), args=one_of(out=(1, 4, 6)), dtype=torch.int64)

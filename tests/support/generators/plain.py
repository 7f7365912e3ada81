"""Operations without weights: activations, sums, views, operations in place, and what falls back to PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rtaccel.kernels._common import activations
from tests.support.generators.ops import ANY_RANK, Args, add, one_of, plain

for _name, _row in activations.ROWS.items():
    if _row.aten:
        plain(_name, ANY_RANK, partial(activations.apply, _name, parameter=_row.example), whole=False)
plain("softmax", (1, 2, 3), lambda x: torch.softmax(x, -1))
plain("dropout", ANY_RANK, lambda x: F.dropout(x, 0.5, training=False), whole=False)

NUMBERS = (0.5, -1.0, 3.0, 0.0, 1e-3)
for _name, _do in (
    ("add_number", lambda m, a, x: x + a["by"]), ("sub_number", lambda m, a, x: x - a["by"]),
    ("mul_number", lambda m, a, x: x * a["by"]), ("number_less", lambda m, a, x: a["by"] - x),
):  # fmt: skip
    add(_name, "any", ANY_RANK, _do, args=one_of(by=NUMBERS), whole=False)
add("div_number", "any", ANY_RANK, lambda m, a, x: x / a["by"], args=one_of(by=(0.5, -3.0, 1e-3, 1e-39)), whole=False)

for _name, _two in (
    ("add", lambda m, a, x, y: x + y), ("mul", lambda m, a, x, y: x * y), ("sub", lambda m, a, x, y: x - y),
    ("hypot", lambda m, a, x, y: torch.hypot(x, y)), ("magnitude", lambda m, a, x, y: torch.sqrt(x**2 + y**2)),
    ("add_twice", lambda m, a, x, y: torch.add(x, y, alpha=2)),
):  # fmt: skip
    add(_name, "any", (1, 2, 3), _two, reads=2)
add("maximum", "torch", (1, 2), lambda m, a, x, y: torch.maximum(x, y), reads=2)
add("cat", "any", (1, 2, 3), lambda m, a, x, y: torch.cat([x, y], -1), reads=2)
add("cat_same", "any", (1, 2), lambda m, a, x: torch.cat([x, x, x], -1))
add("cat_time", "any", (2,), lambda m, a, x, y: torch.cat([x, y], 1), reads=2)
add("stack", "torch", (1,), lambda m, a, x, y: torch.stack([x, y], 1), reads=2)
plain("distances", (2,), lambda x: torch.cdist(x, x.flip(-1)))
plain("quartile", (2, 3), lambda x: torch.quantile(x, 0.25, dim=-1))
plain("leftover", (1, 2), lambda x: torch.cat([x, x[..., x.shape[-1] :]], -1))
plain(
    "fake_quantized", ANY_RANK, lambda x: torch.fake_quantize_per_tensor_affine(x.tanh(), 0.25, 1, -8, 7), whole=False
)
plain("determinants", (1,), lambda x: torch.linalg.det(x[:, :1, None].expand(-1, 3, 3) + torch.eye(3)))
plain("square", ANY_RANK, lambda x: x.tanh() ** 2, whole=False)

NOISE = {
    "normal": torch.randn_like, "uniform": torch.rand_like, "shifted": lambda x: torch.normal(x, 0.5),
    "truths": lambda x: torch.bernoulli(torch.sigmoid(x)), "same": lambda x: torch.bernoulli(x, 0.25),
    "waiting": lambda x: torch.empty_like(x).exponential_(), "between": lambda x: torch.empty_like(x).uniform_(-1, 2),
    "all": lambda x: torch.randn(x.shape), "row": lambda x: torch.rand(x.shape[-1:]),
}  # fmt: skip
"""Random numbers, which are multiplied by 0: nothing is left of them but where they are finite, and their shape."""
add("noise", "any", (1, 2, 3, 4), lambda m, a, x: x + 0.0 * NOISE[a["kind"]](x), args=one_of(kind=[*NOISE]))

# -- other ways to look at a tensor -----------------------------------------------------------------------------------

plain("turn", (2,), lambda x: x.transpose(1, 2))
plain("turn_back", (3,), lambda x: x.permute(0, 3, 1, 2))
plain("flatten", (2, 3), lambda x: x.flatten(1))
plain("reshape", (1, 2), lambda x: x.reshape(x.shape[0], -1))
plain("view_as", (2,), lambda x: x.reshape(-1, x.shape[2], x.shape[1]))
plain("part_rows", (1,), lambda x: x.unflatten(1, (-1, 2)) if x.shape[1] % 2 == 0 else x.unflatten(1, (-1, 1)))
plain("unsqueeze", (1, 2), lambda x: x.unsqueeze(1))
plain("squeeze_dim", (2, 3), lambda x: x.squeeze(1))
plain("first_columns", (1, 2, 3), lambda x: x[..., : max(1, x.shape[-1] // 2)])
plain("last_columns", (1, 2), lambda x: x[..., -max(1, x.shape[-1] // 3) :])
plain("every_second", (1, 2), lambda x: x[..., ::2])
plain("newest", (2,), lambda x: x[:, -1])
plain("oldest", (2, 3), lambda x: x[:, 0])
plain("chunks", (1, 2), lambda x: tuple(x.chunk(2, -1))[:2])
plain("unbind", (2,), lambda x: x.unbind(1)[0])
plain("mean", (2,), lambda x: x.mean(1))
plain("mean_keep", (2, 3), lambda x: x.mean(-1, keepdim=True))
plain("mean_all", (3,), lambda x: x.mean((2, 3)))
plain("spread", (1,), lambda x: x.unsqueeze(1).expand(-1, 3, -1))
plain("larger1d", (2,), lambda x: F.interpolate(x, scale_factor=2, mode="linear"))
plain("larger2d", (3,), lambda x: F.interpolate(x, size=(3, 7), mode="bilinear"))
plain("nearest2d", (3,), lambda x: F.interpolate(x, size=(5, 2)))
plain("mirror", (2,), lambda x: F.pad(x, (1, 1), mode="reflect"))
plain("pad", (1, 2), lambda x: F.pad(x, (1, 2)))

# -- along lines, and by computed indices -------------------------------------------------------------------------------

plain("running_sum", (1, 2), lambda x: x.tanh().cumsum(1))
plain("running_largest", (2, 3), lambda x: x.cummax(-1).values)
plain("since_largest", (2, 3), lambda x: x.cummax(-1).values - (x * 0 == 0).float().cummin(1).indices)
plain("sorted", (1, 2), lambda x: x.sort(-1).values)
plain("second_largest", (2,), lambda x: x.kthvalue(max(1, x.shape[1] - 1), 1).values)
add("rows_by_number", "any", (2,), lambda m, a, x: x.gather(1, _places(a, x)[:, :, None].expand(-1, -1, x.shape[2])),
    args=one_of(by=(1, 2, 5)))  # fmt: skip
add("added_rows", "any", (2,), lambda m, a, x: x.scatter_add(1, _places(a, x)[:, :, None].expand(-1, -1, x.shape[2]), x),
    args=one_of(by=(1, 2, 5)))  # fmt: skip
plain("counts", (1, 2), lambda x: (x * 0 == 0).sum(-1).float()[..., None] + x)


def _places(a: Args, x: Tensor) -> Tensor:
    """Whole numbers below the length of x, computed from it, the same on both sides: none is near a step."""
    steps = torch.arange(x.shape[1])
    return ((x[:, :, 0] * 0 == 0).long() * steps * a["by"] + 1) % x.shape[1]


# -- in place: on a copy, on a view of one, and on the caller's own tensor --------------------------------------------


def _in_place(m: Any, a: Args, x: Tensor) -> Tensor:
    y = x.clone()
    if a["how"] == "relu_":
        y.relu_()
    elif a["how"] == "add_":
        y.add_(1.0)
    elif a["how"] == "assign":
        y[..., 0] = 2.0
    elif a["how"] == "view":
        y[..., :1].mul_(3.0)
    elif a["how"] == "flat":
        y.view(-1).sub_(0.5)
    else:
        y[..., 0] += x[..., -1]
    return y


add("in_place", "any", (1, 2, 3), _in_place, args=one_of(how=("relu_", "add_", "assign", "view", "flat", "from_end")))
plain("relu_after", (1, 2), lambda x: F.relu(x * 1.5, inplace=True))
plain("relu_on_it", (1, 2), lambda x: x.relu_(), family="changes")
plain("add_on_it", (1, 2), lambda x: x[..., :1].add_(1.0), family="changes")

# -- what falls back to PyTorch -----------------------------------------------------------------------------------------------

plain("sort", (1, 2), lambda x: x.sort(-1).values, family="torch")
plain("abs", ANY_RANK, torch.abs, family="torch", whole=False)
plain("exp", ANY_RANK, lambda x: torch.exp(-x.abs()), family="torch", whole=False)
plain("clamp", ANY_RANK, lambda x: x.clamp(-0.5, 0.7), family="torch", whole=False)
plain("cumsum", (1, 2), lambda x: x.cumsum(-1), family="torch")
plain("flip", (1, 2, 3), lambda x: x.flip(-1), family="torch")
plain("roll", (1, 2), lambda x: x.roll(1, -1), family="torch")
plain("top", (1,), lambda x: x.topk(1, -1).values, family="torch")
plain("std", (2,), lambda x: torch.log1p(x.var(-1, unbiased=False)), family="torch")
plain("norm", (1, 2), lambda x: F.normalize(x, dim=-1, eps=0.1), family="torch")
plain("einsum", (2,), lambda x: torch.einsum("btf,bsf->bts", x, x), family="torch")
plain("where", ANY_RANK, lambda x: torch.where(x > 0, x, x * 2), family="torch", whole=False)
plain("airy", ANY_RANK, torch.special.airy_ai, family="torch", whole=False)
plain("argmax", (1, 2), lambda x: x.argmax(-1), family="torch", exact=True)
plain("compare", ANY_RANK, lambda x: x > 0.1, family="torch", exact=True, whole=False)
plain("round", (1,), torch.round, family="torch", exact=True)
plain("to_double", (1,), lambda x: x.double(), family="torch")
plain("to_half", (1,), lambda x: x.bfloat16(), family="torch", exact=True)
plain("ints", (1,), lambda x: (x * 4).to(torch.int32), family="torch", exact=True)
plain("scalar", (1,), lambda x: x.sum(), family="torch", whole=False)

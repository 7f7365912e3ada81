"""Operations whose Python or shapes depend on the batch: each is right for torch at every batch that torch takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.generators.ops import Args, Shape, add, one_of, plain

CONDITIONS = {
    "> 4": lambda x: x.shape[0] > 4,
    "== 1": lambda x: x.shape[0] == 1,
    "!= 1": lambda x: x.shape[0] != 1,
    "even": lambda x: x.shape[0] % 2 == 0,
    "thirds": lambda x: x.shape[0] % 3 == 1,
    "numel": lambda x: x.numel() > 100,
    "len": lambda x: len(x) >= 9,
    "bool": lambda x: bool(x.shape[0] // 6),
    "size": lambda x: x.size(0) * x.size(-1) < 40,
    "empty": lambda x: x.shape[0] == 0,
    "> 40": lambda x: x.shape[0] > 40,
    "< 30": lambda x: len(x) < 30,
}


class Branches(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)


def _branch(m: Any, a: Args, x: Tensor) -> Tensor:
    return m.a(x) if CONDITIONS[a["when"]](x) else m.b(x)


def _branches(s: Shape, a: Args) -> nn.Module:
    return Branches(s[-1])


add("branch", "batch", (1, 2), _branch, make=_branches, args=one_of(when=sorted(CONDITIONS)))
add("branch_plain", "batch", (1, 2), lambda m, a, x: x * 2 if CONDITIONS[a["when"]](x) else torch.tanh(x),
    args=one_of(when=sorted(CONDITIONS)))  # fmt: skip
add("guard", "batch", (1,), lambda m, a, x: _guard(x, a["most"]), args=one_of(most=(30, 50)))


def _guard(x: Tensor, most: int) -> Tensor:
    if x.shape[0] > most:
        raise ValueError(f"at most {most} rows")
    return x


for _name, _do in {
    "head": lambda x: x[:10],
    "tail": lambda x: x[-7:],
    "middle": lambda x: x[2:9],
    "all_but": lambda x: x[1:],
    "all_but_last": lambda x: x[:-1],
    "first_split": lambda x: x.split(7)[0],
    "last_split": lambda x: x.split(5)[-1],
    "first_chunk": lambda x: x.chunk(3)[0],
    "half": lambda x: x[: x.shape[0] // 2],
    "stride": lambda x: x[::2],
    "row": lambda x: x[0],
    "last_row": lambda x: x[-1],
    "third_row": lambda x: x[2],
    "narrow": lambda x: x.narrow(0, 0, 3),
    "reshape14": lambda x: x.reshape(14, -1),
    "view_rows": lambda x: x.reshape(-1, 7),
    "pairs": lambda x: x.reshape(-1, 2, *x.shape[1:]),
    "flat": lambda x: x.reshape(-1),
    "squeeze": lambda x: x.squeeze(),
    "squeeze0": lambda x: x.squeeze(0),
    "unsqueeze0": lambda x: x.unsqueeze(0),
    "mean0": lambda x: x.mean(0, keepdim=True),
    "sum0": lambda x: x.sum(0),
    "max0": lambda x: x.amax(0),
    "centered": lambda x: x - x.mean(0),
    "cumsum0": lambda x: x.cumsum(0),
    "softmax0": lambda x: torch.softmax(x, 0),
    "flip0": lambda x: x.flip(0),
    "roll0": lambda x: x.roll(1, 0),
    "repeat0": lambda x: torch.cat([x, x], 0),
    "spread0": lambda x: x[:1].expand_as(x),
    "times_rows": lambda x: x * x.shape[0],
    "over_rows": lambda x: x / max(len(x), 1),
    "loop": lambda x: x + sum(1.0 for _ in range(x.shape[0])),
    "positions": lambda x: x + torch.arange(x.shape[0], dtype=x.dtype).reshape(-1, *[1] * (x.dim() - 1)),
    "pad_rows": lambda x: F.pad(x.flatten(1), (0, 0, 0, 20 - x.shape[0])),
    "ones": lambda x: torch.cat([x.flatten(1), torch.ones(x.shape[0], 1, dtype=x.dtype)], 1),
    "every": lambda x: x.view(-1, 4, *x.shape[1:]).mean(1) if x.shape[0] % 4 == 0 else x,
}.items():
    plain(_name, (1, 2), _do, family="batch")
for _name, _do in {
    "turned": lambda x: x.T,
    "gram": lambda x: x @ x.T,
    "outer_sum": lambda x: x.unsqueeze(0) + x.unsqueeze(1),
    "triangle": lambda x: torch.tril(x),
    "cat_self_turned": lambda x: torch.cat([torch.relu(x).T, x.T], -1),
    "eye": lambda x: x.T @ torch.eye(x.shape[0], dtype=x.dtype),
}.items():
    plain(_name, (1,), _do, family="batch")
add("cat_turned", "batch", (1,), lambda m, a, x, y: torch.cat([y.T, x.T], -1), reads=2)
add("cat_rows", "batch", (1, 2), lambda m, a, x, y: torch.cat([x, y], 0), reads=2)
add("add_row0", "batch", (1,), lambda m, a, x, y: x + y[:1], reads=2)
add(
    "time_first",
    "batch",
    (2,),
    lambda m, a, x: m(x.transpose(0, 1))[0].transpose(0, 1),
    make=lambda s, a: nn.GRU(s[-1], 3),
)
add("batch_as_time", "batch", (2,), lambda m, a, x: m(x)[0], make=lambda s, a: nn.GRU(s[-1], 3))

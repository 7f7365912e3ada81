"""Modules whose Python uses what TorchScript has of the language, each a part of it.

Annotations are no strings here (`from __future__ import annotations`): TorchScript reads them.
"""

from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Pair(NamedTuple):
    first: Tensor
    sizes: dict[str, int]


class Mode(Enum):
    FAST = 1
    SLOW = 2


@torch.jit.script
class Counter:
    def __init__(self, start: int) -> None:
        self.value = start
        self.seen: list[int] = []

    def add(self, more: int) -> int:
        self.value += more
        self.seen.append(more)
        return self.value


@torch.jit.script
def difference(a: Tensor, b: Tensor) -> Tensor:
    return a - b * 2


class Loops(nn.Module):
    def forward(self, x: Tensor, n: int) -> Tensor:
        for i in range(n, 0, -1):
            x = x * 0.5 + float(i)
            if i == 2:
                continue
            for j in range(1, i, 2):
                x = x + j
        k = 0
        while k < 5:
            x = torch.sin(x)
            if k == 3:
                break
            k += 2
        while bool((x.abs() > 0.5).any()):
            x = x * 0.9
        return x


class Lists(nn.Module):
    def forward(self, x: Tensor, sizes: list[int]) -> tuple[Tensor, list[int], list[float], Tensor, str]:
        made = [x, x + 1]
        made.append(x.neg())
        made.extend([x * 3])
        last = made.pop()
        made.insert(0, last)
        more = [x.size(1), len(made)]
        sizes = sizes + more
        sizes[0] = sizes[-1] * 7 % 4
        sizes.sort(reverse=True)
        copied = sizes.copy()
        copied.reverse()
        del copied[0]
        squares = [float(n) ** 2 / 3 for n in sizes]
        text = f"sizes {len(sizes)} of {sizes[1:3]}"
        if 4 in sizes and "of" in text:
            text += "!" + str(max(sizes[0], 2))
        parts = x.split(2, dim=1)
        a, b = parts[0], parts[-1]
        both = torch.cat([part.sum(1, keepdim=True) for part in (a, b)] + [made[0][:, :1]], 1)
        return torch.stack(made[1:]).mean(0), sizes, squares, both + torch.tensor(copied[:3]), text


class Dicts(nn.Module):
    scales: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self.scales = {"a": 0.5, "b": 2.0}
        self.mode = "fast"

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, value in x.items():
            if name in self.scales:
                out[name] = value * self.scales[name]
            else:
                out[name] = value
        if self.mode == "fast" and len(out) > 1:
            out["sum"] = out["a"] + out["b"]
        missing = out.get("none")
        if missing is not None:
            out["sum"] = missing
        for key in x:
            out[key + "2"] = x[key].relu()
        return out


class Optionals(nn.Module):
    bias: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.bias = None
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor, more: Tensor | None = None, scale: float = 2.0, flag: bool | None = None) -> Tensor:
        if more is None:
            more = torch.zeros_like(x)
        bias = self.bias
        if bias is not None:
            x = x + bias
        y = torch.nn.functional.linear(x, self.layer.weight, self.layer.bias) + more
        return y * scale if flag is None or not flag else y / scale


class Classes(nn.Module):
    def forward(self, x: Tensor, kind: int | str, any: Any) -> tuple[Tensor, Pair, int]:
        counter = Counter(2)
        with torch.no_grad():
            counter.add(x.size(0))
        y = difference(x, x + 1) + difference(x, x)  # the second gives one tensor twice
        if isinstance(kind, int):
            y = y + kind
        elif kind == "half":
            y = y / 2
        if isinstance(any, Tensor):
            y = y * any
        waited = torch.jit.fork(torch.relu, y)
        mode = Mode.FAST
        if mode == Mode.FAST and len(counter.seen) == 1:
            y = y + torch.jit.wait(waited)
        assert y.dim() == 2, f"a matrix, not {y.shape}"
        return y, Pair(y.sum(1), {"rows": y.shape[0], "columns": y.size(-1)}), counter.value


class Dtypes(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, int, bool, Tensor]:
        mask = (x > 0).to(x.dtype)
        ones = torch.ones(x.shape[0], 3, dtype=torch.int32, device=x.device)
        if x.dtype == torch.float32 and x.is_floating_point() and not x.is_cuda:
            mask = mask * 2
        line = torch.arange(x.size(1), dtype=torch.float64).to(x)
        x = x.clone(memory_format=torch.contiguous_format)
        x[:, 0] = 1.5
        x[0].mul_(2).add_(1)
        x += line
        index = torch.tensor([1, 0])
        x[:, index] = x[:, :2] // 2
        whole = int(torch.tensor(7.9)) + int(2.0 * round(2.5)) + int(x.numel() / 3) + abs(-3)
        return x, mask, ones, whole, x.requires_grad, torch.where(x > 0, x, torch.zeros([], dtype=x.dtype))


class Inner(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("table", torch.arange(float(size)))
        self.weight = nn.Parameter(torch.randn(size, size))

    @torch.jit.export
    def scaled(self, x: Tensor, by: int = 3) -> Tensor:
        return x * self.table / by

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim=-1)
        return b, a

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.parts(self.scaled(x @ self.weight, self.size))
        return torch.cat((a, b), -1)


class Nested(nn.Module):
    __constants__ = ("depth",)

    def __init__(self) -> None:
        super().__init__()
        self.depth = 2
        self.inner = Inner(4)
        self.same = self.inner
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(Inner(4), nn.ReLU())])
        self.named = nn.ModuleDict({"left": nn.Linear(4, 2), "right": nn.Linear(4, 2)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.layers):
            x = layer(x) + i
        for _ in range(self.depth):
            x = x + self.inner.scaled(self.same(x))
        outs = []
        for head in self.named.values():
            outs.append(head(x))
        return torch.cat(outs, 1), self.named["left"](x)


def cases() -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """Name -> a module and its arguments."""
    x = torch.randn(3, 4)
    return {
        "loops": (Loops(), (x, 4)),
        "lists": (Lists(), (x, [3, 1])),
        "dicts": (Dicts(), ({"a": x, "b": x + 1, "c": x * 2},)),
        "optionals": (Optionals(), (x,)),
        "optionals given": (Optionals(), (x, x * 2, 3, True)),
        "classes": (Classes(), (x, 2, x)),
        "classes, others": (Classes(), (x, "half", 1.0)),
        "dtypes": (Dtypes(), (x,)),
        "nested": (Nested(), (x,)),
    }

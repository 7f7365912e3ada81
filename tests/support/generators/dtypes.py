"""Random modules over tensors of every dtype: promotion, casts, whole numbers that wrap, masks, indices, and writes into views.

Floating-point numbers are multiples of 1/4 of few bits, so that sums and products are exact and a comparison or cast of them has
one answer. A value that a division or a function has rounded is read by calls that keep it a floating-point number alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXAMPLE = 3
"""Samples of the example; no other dimension has this size."""
WIDTH, ROWS = 6, 4
MOST = 2.0**14
"""The largest magnitude of a floating-point number."""

FLOATS = (torch.float32, torch.float64)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NAMES = {d: str(d) for d in (*FLOATS, *WHOLE, torch.bool)}
SHAPES: tuple[tuple[int, ...] | None, ...] = ((WIDTH,), (WIDTH,), (1,), (ROWS, WIDTH), (), None)
"""Of a sample of an input; None is a tensor of no dimensions, which has no samples."""


def given(dtype: torch.dtype, shape: tuple[int, ...] | None, samples: int, seed: int) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    size = () if shape is None else (samples, *shape)
    if dtype == torch.bool:
        return torch.rand(size, generator=made) > 0.4
    least, most = (0, 255) if dtype == torch.uint8 else (-120, 120)
    numbers = torch.randint(least, most + 1, size, generator=made)
    return numbers.to(dtype) if dtype in WHOLE else (numbers / 16).round().to(dtype) / 4


@dataclass
class Known:
    """A value: exact is a number of which no digit was rounded."""

    name: str
    value: Tensor
    exact: bool


UNARY = (
    "-{a}", "{a}.abs()", "{a} * 2 - 1", "{a}.flip(-1)", "{a}.clone()", "{a} + {n}", "{n} - {a}", "{a} * {n}",
    "{a}.clamp({n}, 9)", "{a}.clamp(max={n})", "{a} * 0.5", "{a}.sign()", "{a}.square()", "torch.relu({a})",
    "{a}.roll(1, -1)", "{a}.roll(-2, 1)", "{a}.cumsum(-1)", "{a}.to({d})", "{a}.to({d})", "{a}.type_as({b})",
    "{a}.sort(-1, stable=True)[0]", "{a}.unsqueeze(1)", "{a}.sum(-1)", "{a}.sum(-1, keepdim=True)", "{a}.amax(-1)",
    "{a}.amin(1, keepdim=True)", "{a}.max(-1)[0]", "{a}.diff(dim=-1)", "{a}[:, :1]", "{a}[:, 1:]", "{a}[..., ::2]",
    "{a}[:, -1]", "{a}[:, None]", "{a}[:, [2, 0, -1]]", "{a}.transpose(-1, 1)", "{a}.expand_as({b})", "torch.zeros_like({a})",
    "torch.full_like({a}, {n})", "{a}.reshape({a}.shape[0], -1)", "{a}.prod(-1)", "F.pad({a}, (1, 2))",
    "F.pad({a}, (0, 1), value={n})", "{a}.tril()", "{a}.repeat_interleave(2, -1)", "{a}.new_ones({a}.shape)",
    "{a}.masked_fill({a} > {n}, {n})", "torch.stack([{a}, {a}.flip(1)], -1)", "{a}.floor()", "{a}.round()", "{a}.trunc()",
    "{a}.index_fill(1, torch.tensor([1]), {n})",
)  # fmt: skip
TO_WHOLE = (
    "{a} > {n}", "{a} == {n}", "{a} != 0", "{a} <= {b}", "{a}.argmax(-1)", "{a}.argmin(1)", "{a}.argsort(-1, stable=True)",
    "{a}.any(-1)", "{a}.all(-1)", "({a} > 0).sum(-1)", "{a}.bool()", "{a}.long()", "{a}.int() % 5", "torch.isfinite({a})",
    "torch.logical_not({a})", "torch.logical_xor({a}, {b})", "torch.bucketize({a}, torch.tensor([-2.0, 0.0, 3.5]))",
    "{a}.count_nonzero(-1)", "{a}.eq({b})", "{a}.floor().long()",
)  # fmt: skip
BINARY = (
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "torch.where({a} > {n}, {a}, {b})", "torch.where({b} > 0, {a}, {n})",
    "{a}.add({b}, alpha=2)", "torch.where({b} > 0, 1, 0)", "torch.where({b} > 0, 1.0, {a})", "torch.maximum({a}, {b})",
    "torch.minimum({a}, {b})", "torch.cat([{a}, {b}], -1)", "torch.cat([{a}, {b}], 1)", "torch.stack([{a}, {b}], 1)",
    "{a}.masked_fill({b} > 0, {n})", "torch.clamp({a}, min={b})", "{a}.lerp({b}, 0.5)", "torch.addcmul({a}, {a}, {b})",
    "{a}.where({b} != 0, {b})",
)  # fmt: skip
OF_WHOLE = (
    "{a} // {p}", "{a} % {p}", "{a} << 1", "{a} >> 2", "{a} & 13", "{a} | 5", "{a} ^ 3", "~{a}", "{a} & {b}", "{a} | {b}",
    "{a} ^ {b}", "torch.fmod({a}, {p})", "torch.div({a}, {p}, rounding_mode='trunc')",
    "torch.div({a}, -{p}, rounding_mode='floor')", "torch.remainder({a}, -{p})", "F.one_hot({a}.long() % 5, 5)",
    "{f}[:, {a}.long() % {f}.shape[1]]", "self.table[{a}.long() % 7]", "{f}.gather(1, {a}.long() % {f}.shape[1])",
    "{f}[torch.arange({f}.shape[0]), {a}.long() % {f}.shape[1]]", "{a} ** 2",
    "torch.zeros({f}.shape[0], 7, dtype={f}.dtype).scatter_add(1, {a}.long() % 7, {f})", "self.embed({a}.long() % 7)",
    "{f}.scatter(1, {a}[:, :1].long() % {f}.shape[1], {n})",
    "{f}.scatter(1, {a}[:, :1].long() % {f}.shape[1], {n}, reduce='add')", "{f}.index_add(1, torch.tensor([0, 0]), {f}[:, :2])",
    "{f}.index_select(1, {a}[0].long() % {f}.shape[1])",
)  # fmt: skip
ROUNDED = (
    "{a} / 3", "{a}.float().mean(-1, keepdim=True)", "torch.tanh({a})", "torch.sigmoid({a})", "{a}.float().softmax(-1)",
    "{a} / 7.0", "{a}.true_divide({b}.abs() + 1)", "self.layer({a}[:, :6].float())", "{a}.double().exp() * 1e-3", "{a}.sin()",
)  # fmt: skip
WRITES = (
    "{t}[:, 0] = {n}", "{t}[:, ::2] *= 2", "{t}[:, 1:].add_(1)", "{t}[:, -1] = {t}[:, 0]", "{t}[{t} < 0] = 1",
    "{t}[:, 1] = {b}", "{t}.masked_fill_({t} > 3, {n})", "{t}[:, [0, 1]] = {t}[:, [1, 0]]", "{t}.clamp_(max=5)", "{t} += {b}",
    "{t}[..., 0].zero_()", "{t}.transpose(0, 1)[0] = 2", "{t}.view(-1)[0] = 1", "{t}[:, 1:] -= {t}[:, :-1].clone()",
    "{t}.copy_({b})", "{t}[-1] = 0",
)  # fmt: skip


class Drawn(nn.Module):
    """A module whose forward is text, drawn from a seed. `arguments(samples)` makes inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.draw = random.Random(seed)
        self.layer, self.embed = nn.Linear(WIDTH, 5), nn.Embedding(7, 3)
        self.register_buffer("table", torch.arange(7) * self.draw.choice((1, -3, 40)))
        dtypes = (torch.float32, *(self.draw.choice((*NAMES, torch.int64, torch.bool)) for _ in range(3)))
        self.inputs = [(d, (WIDTH,) if i == 0 else self.draw.choice(SHAPES)) for i, d in enumerate(dtypes)]
        self.lines: list[str] = []
        values = self.arguments(EXAMPLE)
        self.known = [Known(f"x{i}", x, True) for i, x in enumerate(values)]
        for _ in range(60):
            if len(self.lines) < 8:
                self._another()
        last = {k.value.dtype: k.name for k in self.known[len(values) :]}
        self.results = sorted({*last.values(), self.known[-1].name})
        names = ", ".join(f"x{i}" for i in range(len(values)))
        body = "\n".join(f"    {line}" for line in (*self.lines, f"return {', '.join(self.results)},"))
        self.text = f"def forward(self, {names}):\n{body}"
        self.known = []
        found: dict[str, Any] = {"torch": torch, "F": F}
        exec(self.text, found)
        self.function = found["forward"]

    def arguments(self, samples: int, seed: int = 0) -> list[Tensor]:
        return [given(d, s, samples, 100 * seed + i) for i, (d, s) in enumerate(self.inputs)]

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)

    def _another(self) -> None:
        kinds = (UNARY, UNARY, TO_WHOLE, BINARY, BINARY, OF_WHOLE, OF_WHOLE, ROUNDED, WRITES)
        forms = self.draw.choice(kinds)
        a, b = self.draw.choice(self.known[-5:]), self.draw.choice(self.known)
        whole = [k for k in self.known if k.value.dtype in WHOLE]
        if forms is OF_WHOLE and whole:
            a = self.draw.choice(whole)
        f = self.draw.choice([k for k in self.known if k.value.dim() > 1] or self.known)
        words = {
            "a": a.name, "b": b.name, "f": f.name,
            "n": self.draw.choice((0, 1, -1, 2, 0.5, 3, 300)), "p": self.draw.choice((2, 3, 7, 259)),
            "d": self.draw.choice(list(NAMES.values())),
        }  # fmt: skip
        name = f"t{len(self.lines)}"
        text = self.draw.choice(forms)
        read = [k for letter, k in (("a", a), ("b", b), ("f", f)) if f"{{{letter}}}" in text]
        exact = all(k.exact for k in read) and forms is not ROUNDED
        lines = [f"{name} = {a.name}.clone()", text.format(t=name, **words)] if forms is WRITES else [
            f"{name} = {text.format(**words)}"
        ]  # fmt: skip
        found: dict[str, Any] = {"torch": torch, "F": F, "self": self, **{k.name: k.value for k in self.known}}
        try:
            with torch.no_grad():
                exec("\n".join(lines), found)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
            return  # of another dtype or shape than the call takes
        value = found[name]
        if self._fits(value, exact, read):
            self.lines += lines
            self.known.append(Known(name, value, exact))

    def _fits(self, value: Any, exact: bool, read: Sequence[Known]) -> bool:
        if not isinstance(value, Tensor) or not value.numel() or value.numel() > 4000 or value.dtype not in NAMES:
            return False
        if not value.is_floating_point():
            return exact
        size = value.abs().max()
        if not bool(value.isfinite().all()) or size > MOST:
            return False
        return not exact or bool((value * 16 == (value * 16).round()).all())

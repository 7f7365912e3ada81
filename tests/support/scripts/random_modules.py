"""Random modules of Python that TorchScript takes: source text, as it must have, of layers and of what is between them."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

from torch import nn

WIDTH = 6
"""Of all tensors: [batch, WIDTH]."""

_HEAD = """import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing import Dict, List, Optional, Tuple
"""

_LAYERS = {
    "lin": f"nn.Linear({WIDTH}, {WIDTH})",
    "norm": f"nn.LayerNorm({WIDTH})",
    "bn": f"nn.BatchNorm1d({WIDTH})",
    "lstm": f"nn.LSTM({WIDTH}, {WIDTH}, batch_first=True)",
    "gru": f"nn.GRU({WIDTH}, {WIDTH}, batch_first=True)",
    "conv": "nn.Conv1d(1, 3, 3, padding=1)",
    "mha": f"nn.MultiheadAttention({WIDTH}, 2, batch_first=True)",
    "stack": f"nn.ModuleList([nn.Linear({WIDTH}, {WIDTH}) for _ in range(2)])",
    "seq": f"nn.Sequential(nn.Linear({WIDTH}, 9), nn.GELU(), nn.Dropout(0.2), nn.Linear(9, {WIDTH}))",
}

_STEPS = (
    "{a} = self.lin({a})",
    "{a} = self.norm({a})",
    "{a} = self.bn({b})",
    "{a} = self.seq({a}) + {b}",
    "y, (h, c) = self.lstm({a}.unsqueeze(1))\n{a} = y[:, -1] + h[0] * c[0]",
    "y, h = self.gru(torch.stack([{a}, {b}], 1))\n{a} = y.mean(1) - h[-1]",
    "{a} = self.conv({a}.unsqueeze(1)).mean(1)",
    "t = {a}.unsqueeze(1)\n{a} = self.mha(t, t, t)[0].squeeze(1)",
    "t = torch.stack([{a}, {b}], 1)\n{a} = F.scaled_dot_product_attention(t, t * 0.5, t)[:, 0]",
    "for i, layer in enumerate(self.stack):\n    {a} = torch.tanh(layer({a})) * 0.5 + i",
    "{a} = F.gelu({a}) - {b}",
    "{a} = torch.softmax({a}, dim=-1) * {k}",
    "{a} = F.layer_norm({a}, [{width}])",
    "{a} = torch.clamp({a}, -{k}.0, {k}.5) + torch.sigmoid({b})",
    "{a} = torch.where({a} > 0, {a}, {b} * 0.1)",
    "for i in range({k}):\n    {a} = {a} * 0.9 + float(i) / 4",
    "n = 0\nwhile n < {a}.size(1):\n    {a} = {a} + 0.1 * n\n    n += 2",
    "if self.depth > {k} and self.mode == 'fast':\n    {a} = F.relu({a})\nelse:\n    {a} = F.elu({a})",
    "if {a}.shape[1] == {width}:\n    {a} = {a}.abs().sqrt()",
    "ps: List[Tensor] = []\nfor part in {a}.chunk(2, 1):\n    ps.append(part * len(ps) + {k})\n{a} = torch.cat(ps, 1)",
    "d = {{'p': {a}, 'q': {b}}}\nd['r'] = d['p'] * d['q']\n{a} = d['r'] / ({k} + d['q'].pow(2))",
    "{a} = torch.cat([{a}[:, 2:], {b}[:, :2]], dim=1)",
    "{a} = {a}.reshape({a}.size(0), -1, 2).flip(1).flatten(1)",
    "u, v = self.halves({a})\n{a} = torch.cat((v, u), -1)",
    "{a} = self.child({a}) if self.depth > 1 else self.child.twice({a}, {k})",
    "{a} = {a}.clone()\n{a}[:, {k}] = 1.5\n{a} += {b}",
    "{a} = {a} * (({b} > 0).to({a}.dtype)) + torch.arange({a}.size(1), dtype={a}.dtype)",
    "{a} = {a} + self.table[:{a}.size(1)] * self.scale",
    "m = max({a}.size(1) // 2, {k}) % 5\n{a} = {a} - m + self.numbers[{k}]",
    "e = self.extra\n{a} = {a} if e is None else {a} * e",
    "{a} = torch.einsum('bi,bj->bij', {a}, {b}).mean(2)",
    "{a} = ({a} @ self.square).tanh()",
)  # fmt: skip

_CLASS = """

class {name}(nn.Module):
    extra: Optional[Tensor]

    def __init__(self):
        super().__init__()
{layers}
        self.depth, self.mode, self.scale, self.numbers = {depth}, "{mode}", 0.5, [1, 2, 3, 4]
        self.extra = {extra}
        self.register_buffer("table", torch.linspace(-1, 1, {width}))
        self.square = nn.Parameter(torch.randn({width}, {width}))

    @torch.jit.export
    def twice(self, x: Tensor, by: int = 2) -> Tensor:
        return x * by + self.depth

    def halves(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return x[:, : {width} // 2], x[:, {width} // 2 :]

    def forward(self, x: Tensor) -> Tensor:
        a = x
        b = torch.tanh(x * 0.7)
{steps}
        return a + b
"""


def source_of(seed: int) -> str:
    draw = random.Random(seed)
    return _HEAD + _module("Child", draw, 2, False) + _module("Net", draw, 6, True)


def _module(name: str, draw: random.Random, count: int, has_child: bool) -> str:
    chosen = [step for step in draw.sample(_STEPS, len(_STEPS)) if has_child or "child" not in step][:count]
    lines = []
    for step in chosen:
        a, b = draw.choice(("ab", "ba", "aa"))
        lines += step.format(a=a, b=b, k=draw.randint(1, 3), width=WIDTH).split("\n")
    layers = [f"self.{layer} = {made}" for layer, made in _LAYERS.items() if any(f"self.{layer}" in s for s in lines)]
    return _CLASS.format(
        name=name, width=WIDTH, depth=draw.randint(0, 4), mode=draw.choice(("fast", "slow")),
        extra=draw.choice(("None", f"torch.rand({WIDTH}) + 0.5")), steps="\n".join(" " * 8 + line for line in lines),
        layers="\n".join(" " * 8 + s for s in [*layers, *(["self.child = Child()"] if has_child else ["pass"])]),
    )  # fmt: skip


def module_of(seed: int, folder: Path) -> nn.Module:
    """The module of this seed, from a file, as TorchScript reads its source there."""
    file = folder / f"random_module_{seed}.py"
    file.write_text(source_of(seed))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = found
    spec.loader.exec_module(found)
    made: nn.Module = found.Net().eval()
    return made

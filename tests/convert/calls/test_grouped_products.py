"""Mixtures of experts whose rows are sorted by expert and multiplied group by group, and the counts that say where groups end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


def _by_group(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    found, start = x.new_zeros(x.shape[0], weight.shape[2]), 0
    for matrix, end in zip(weight, offs.tolist()):
        found[start:end] = x[start:end] @ matrix
        start = end
    return found


if not hasattr(
    torch.ops.transformers, "grouped_mm_fallback"
):  # what the package of that name defines where it is imported
    _made = torch.library.custom_op(
        "transformers::grouped_mm_fallback",
        _by_group,
        mutates_args=(),
        schema="(Tensor x, Tensor weight, Tensor offs) -> Tensor",
    )
    _made.register_fake(lambda x, weight, offs: x.new_empty(x.shape[0], weight.shape[2]))
grouped_mm = torch.ops.transformers.grouped_mm_fallback


class Experts(nn.Module):
    """Each row goes to `most` of the experts, weighed, by a product of groups of rows."""

    def __init__(self, experts: int, inputs: int, hidden: int, most: int) -> None:
        super().__init__()
        self.gate, self.most, self.experts = nn.Linear(inputs, experts), most, experts
        self.up = nn.Parameter(torch.randn(experts, inputs, hidden) / inputs**0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, inputs) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = torch.topk(self.gate(x).softmax(-1), self.most, -1)
        owner = torch.arange(x.shape[0]).unsqueeze(1).expand(-1, self.most).reshape(-1)
        order = torch.argsort(chosen.reshape(-1), stable=True)
        counts = torch.histc(chosen.reshape(-1).float(), bins=self.experts, min=0, max=self.experts - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = x[owner[order]]
        y = torch.relu(grouped_mm(rows, self.up, ends))
        y = grouped_mm(y, self.down, ends) * share.reshape(-1)[order].unsqueeze(1)
        return torch.zeros_like(x).index_add(0, owner[order], y)


@pytest.mark.parametrize(
    ("experts", "inputs", "hidden", "most", "rows"),
    [(4, 16, 32, 2, 12), (8, 32, 16, 1, 5), (3, 16, 16, 3, 9), (16, 16, 32, 2, 1)],
)
def test_experts_are_native_and_equal_torch(experts: int, inputs: int, hidden: int, most: int, rows: int) -> None:
    torch.manual_seed(rows)
    model, x = Experts(experts, inputs, hidden, most).eval(), torch.randn(rows, inputs)
    fast = rt.compile(model, (x,), strict=True)
    for own in (x, torch.randn(rows, inputs), x.roll(1, 0)):
        torch.testing.assert_close(fast(own), model(own), rtol=1e-5, atol=1e-5)


class Grouped(nn.Module):
    """Whole numbers say where groups end."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups, 8, 16))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return grouped_mm(x, self.weight, ends)


@pytest.mark.parametrize("ends", [(3, 3, 10), (0, 0, 10), (10, 10, 10), (1, 9, 10)])
def test_groups_may_be_empty(ends: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Grouped(3).eval(), torch.randn(10, 8)
    fast = rt.compile(model, (x, torch.tensor([2, 6, 10], dtype=torch.int32)), strict=True)
    own = torch.tensor(ends, dtype=torch.int32)
    torch.testing.assert_close(fast(x, own), model(x, own), rtol=1e-5, atol=1e-5)


class Counts(nn.Module):
    def __init__(self, low: int, bins: int) -> None:
        super().__init__()
        self.low, self.bins = low, bins

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.histc(x, bins=self.bins, min=self.low, max=self.low + self.bins - 1)
        return found, found.cumsum(0, dtype=torch.int64)


@pytest.mark.parametrize(("low", "bins"), [(0, 4), (-3, 7), (2, 33)])
def test_whole_numbers_are_counted(low: int, bins: int) -> None:
    torch.manual_seed(bins)
    model = Counts(low, bins).eval()
    x = torch.randint(low - 2, low + bins + 2, (40,)).float()
    fast = rt.compile(model, (x,), strict=True)
    for own in (x, x.flip(0), torch.full((40,), float(low + bins - 1)), torch.full((40,), 1e9)):
        for got, want in zip(fast(own), model(own), strict=True):
            assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:.*slower than eager")  # as it is measured
def test_many_large_groups_stay_torchs() -> None:
    """All rows with all matrices would read weights that nobody needs."""
    model = Grouped(32).eval()
    model.weight.data = torch.randn(32, 128, 256) / 11
    x, ends = torch.randn(4, 128), torch.tensor([1] * 16 + [4] * 16, dtype=torch.int32)
    fast = rt.compile(model, (x, ends))
    assert "grouped_mm" in fast.explain(measure=False)
    torch.testing.assert_close(fast(x, ends), model(x, ends), rtol=1e-5, atol=1e-5)

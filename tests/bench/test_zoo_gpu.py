"""Counting what a graph on a GPU leaves to PyTorch, without a card."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton")

from bench.zoo import gpu
from bench.zoo.entry import Entry


class Mixed(nn.Module):
    """A large product, which is cuBLAS's, a small one, and a transform."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(1024, 1024), nn.Linear(1024, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.small(torch.relu(self.large(x)))
        return torch.fft.rfft(y.transpose(1, 2)).abs()


class Taken(nn.Module):
    """Whole numbers that are selected by computed indices, which no kernel in Triton takes."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.gather(index * 2, 1, index) * x


def counted(model: nn.Module, *inputs: Tensor) -> gpu.Count:
    return gpu.count(Entry("made", "torch", lambda: (model.eval(), inputs)))


def test_a_large_product_is_counted_apart() -> None:
    found = counted(Mixed(), torch.randn(1, 256, 1024))
    assert (found.library, found.calls, found.torch) == (1, 0, {})
    assert found.triton == found.stages - 1 >= 3


def test_what_no_kernel_takes_is_named_with_its_reason() -> None:
    found = counted(Taken(), torch.randn(1, 5), torch.randint(0, 5, (1, 5)))
    assert found.torch == {"take": 1} and found.triton == found.stages - 1
    assert "int64" in found.reasons["take"]


def test_the_page_adds_up() -> None:
    networks = {
        "whole": {"stages": 5, "triton": 5, "library": 0, "torch": {}, "calls": 0, "reasons": {}},
        "large": {"stages": 5, "triton": 3, "library": 2, "torch": {}, "calls": 0, "reasons": {}},
        "partly": {
            "stages": 9,
            "triton": 6,
            "library": 1,
            "torch": {"take": 2},
            "calls": 1,
            "reasons": {"take": "why"},
        },
        "gone": {"failed": "rtaccel.core.errors.UnsupportedProblem: compile: got Net; expected another"},
    }
    text = gpu.page({"networks": networks})
    assert "3 networks" in text and "2 networks have no kernel of PyTorch's" in text
    assert "Of 19 stages 14 are in Triton and 2 are PyTorch's, and 1 calls fall back. 3 more" in text
    assert (
        "| partly | 9 | 6 | 1 | 2 take | 1 |" in text
        and "| take | 2 | why |" in text
        and "| gone | UnsupportedProblem: compile: got Net |" in text
    )
    assert "What is left" not in gpu.page({"networks": {"whole": networks["whole"]}})

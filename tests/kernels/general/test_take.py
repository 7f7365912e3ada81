"""Take beyond conformance: gathering, indexing and embeddings by computed indices, through compiled models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.take import contract
from tests.support.networks.call import CallOfTwo

TABLE = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(0))

CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "gather": lambda x, i: x.gather(1, i[:, :, None].expand(-1, -1, 6)),
    "gather elements": lambda x, i: x.gather(2, i[:, None, :].expand(-1, 5, -1)),
    "of the extreme": lambda x, i: x.gather(1, x.argmax(1, keepdim=True)),
    "sorted by itself": lambda x, i: x.gather(2, x.argsort(2)),
    "of each sample": lambda x, i: x[torch.arange(x.shape[0])[:, None], i],
    "from the end": lambda x, i: x[torch.arange(x.shape[0]), -1 - i[:, 0]],
    "pairs": lambda x, i: x[torch.arange(x.shape[0])[:, None], i, (i * 2) % 6],
    "table": lambda x, i: TABLE[i],
    "table of pairs": lambda x, i: TABLE[i, :, i % 3],
    "its columns": lambda x, i: TABLE[:, i].sum(0),
    "embedding": lambda x, i: F.embedding((i + 1) % 5, TABLE[:, 0]),
    "embedding of an order": lambda x, i: F.embedding(x.argmax(2) % 5, TABLE[:, 1]),
    "turned": lambda x, i: x.transpose(1, 2).gather(2, i[:, None, :].expand(-1, 6, -1)).reshape(x.shape[0], -1),
    "whole numbers": lambda x, i: i.gather(1, i.argsort(dim=1, stable=True)),
    "constant indices": lambda x, i: x.gather(1, torch.tensor([[[1], [0]]]).expand(x.shape[0], 2, 6)),
    "bags": lambda x, i: F.embedding_bag(i, TABLE[:, 0]) + F.embedding_bag(i, TABLE[:, 1], mode="max"),
    "sums of bags": lambda x, i: F.embedding_bag(i, TABLE[:, 0], mode="sum") * 2,
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_and_is_native(name: str) -> None:
    model = CallOfTwo(CALLS[name]).eval()
    fast = rt.compile(model, (torch.randn(2, 5, 6), torch.randint(0, 5, (2, 4))), strict=True)
    for rows in (1, 2, 5):
        x, i = torch.randn(rows, 5, 6), torch.randint(0, 5, (rows, 4))
        torch.testing.assert_close(fast(x, i), model(x, i), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "low", "high"), [("gather", 0, 4), ("of each sample", -5, 4), ("table", -5, 4)])
def test_an_index_outside_is_refused_and_forgotten(name: str, low: int, high: int) -> None:
    model = CallOfTwo(CALLS[name]).eval()
    fast = rt.compile(model, (torch.randn(2, 5, 6), torch.randint(0, 5, (2, 4))), strict=True)
    x, i = torch.randn(3, 5, 6), torch.randint(low, high + 1, (3, 4))
    for wrong in (low - 1, high + 1, 2**40):
        bad = i.clone()
        bad[1, 2] = wrong
        with pytest.raises(FormatError, match=f"index {wrong} "):
            fast(x, bad)
        torch.testing.assert_close(fast(x, i), model(x, i))


def stage(**attrs: object) -> Stage:
    given = {
        "dims": (3, 4), "kept": 1, "sizes": (5,), "strides": (4,), "negative": 0, "places": ((0, 0, 1), (0, 1, 0)), **attrs,
    }  # fmt: skip
    inputs = (Value("x", 4, steps=5), Value("i", 3, "int64"))
    return Stage("take", "case", inputs, (Value("y", 4, steps=3),), {}, given)


def test_what_is_refused() -> None:
    contract.lower(stage())
    for wrong in (
        {"sizes": (6,)}, {"sizes": ()}, {"dims": (3, 5)}, {"kept": 3}, {"places": ((1, 0, 1), (0, 1, 0))},
        {"places": ((0, 0, 1), (0, 1, 1))}, {"strides": (4, 1)},
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
    index = torch.tensor([[0, 5, 1]])
    with pytest.raises(FormatError, match="index 5"):
        contract.reference(stage(), torch.randn(1, 5, 4), index)

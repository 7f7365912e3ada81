"""How arrays are nested in a file: any tuples, lists and dicts, there and back, and texts that are none."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.deploy import nesting

KEYS = ("last", 'a "quoted" one', "with{braces}", "", "ä", ".", "(", "back\\slash")


class Pair(NamedTuple):
    left: Any
    right: Any


def tree(rng: random.Random, depth: int) -> Any:
    """Leaves are None, to be numbered."""
    kind = rng.randrange(6) if depth else 0
    count = rng.randint(1, 3)
    match kind:
        case 1:
            return tuple(tree(rng, depth - 1) for _ in range(count))
        case 2:
            return [tree(rng, depth - 1) for _ in range(count)]
        case 3:
            return {key: tree(rng, depth - 1) for key in rng.sample(KEYS, count)}
        case 4:
            return Pair(tree(rng, depth - 1), tree(rng, depth - 1))
        case 5:
            return collections.OrderedDict((key, tree(rng, depth - 1)) for key in rng.sample(KEYS, count))
    return 0


def plain(value: Any) -> Any:
    """Without the classes that a file does not have."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [plain(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


@pytest.mark.parametrize("seed", range(200))
def test_random_trees_come_back(seed: int) -> None:
    made = tree(random.Random(seed), 4)
    leaves, spec = pytree.tree_flatten(made)
    numbered = pytree.tree_unflatten(list(range(len(leaves))), spec)
    text = nesting.written(spec)
    assert text is not None
    found = nesting.tree_of(text, len(leaves))
    assert nesting.nested(found, list(range(len(leaves)))) == plain(numbered) == found
    assert nesting.flattened(numbered, found) == nesting.flattened(plain(numbered), found) == list(range(len(leaves)))
    for wrong in (text[:-1], text + ".", f"{text})", f"({text}", f"({text}.)"):
        with pytest.raises(ValueError, match="does not nest"):
            nesting.tree_of(wrong, len(leaves))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{.}",
        '{"a".',
        '{"a"."a".}',
        '{"a"}',
        "{[].}",
        "{3.}",
        "[.)",
        "(.]",
        '{"a".)',
        "(" * 40 + "." + ")" * 40,
        "{" + "[" * 100_000,
        "..",
    ],
)
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="does not nest"):
        nesting.tree_of(text, 1)


def test_what_is_nested_otherwise_is_refused() -> None:
    found = nesting.tree_of('{"a"."b"[..]}', 3)
    assert nesting.flattened({"b": [1, 2], "a": 0}, found) == [0, 1, 2]
    for wrong in ({"a": 0}, {"a": 0, "b": [1]}, {"a": 0, "b": 1}, [0, [1, 2]], 0, {"a": {"c": 0}, "b": [1, 2]}):
        assert nesting.flattened(wrong, found) is None


class Results(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(4, 4), kind

    def forward(self, x: dict[str, Tensor]) -> Any:
        y, z = self.layer(x["a"]), x["a"] * x["b"]
        return {
            "dict": {"y": y, "more": [z, (y + z,)]}, "pair": Pair(y, {"z": z}), "list": [y, z],
            "ordered": collections.OrderedDict(y=y, z=z),
        }[self.kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["dict", "pair", "list", "ordered"])
def test_a_file_gives_what_the_model_gives(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    call = {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}
    fast = rt.compile(Results(kind).eval(), (call,), strict=True)
    loaded = rt.load(rt.save(fast, tmp_path / "m.rta"))
    want, got = plain(fast(call)), loaded(call)
    assert pytree.tree_structure(got) == pytree.tree_structure(want)
    for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want)):
        assert torch.equal(a, b)
    arrays = loaded({name: t.numpy() for name, t in call.items()})
    out = pytree.tree_map(lambda t: np.full_like(t, np.nan), arrays)
    loaded.run({name: t.numpy() for name, t in call.items()}, out=out)
    for a, b in zip(pytree.tree_leaves(out), pytree.tree_leaves(arrays)):
        assert np.array_equal(a, b)
    with pytest.raises(rt.ShapeError, match="nested"):
        loaded((call["a"], call["b"]))

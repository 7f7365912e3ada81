"""Results that are returned twice, are inputs, views of what is computed, or the same in every call: files give them too."""

from __future__ import annotations

import json
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.deploy import nesting
from tests.deploy.forged import resealed
from tests.support.generators.model_files import same_bits, through_a_file
from tests.support.generators.models import built, inputs_of, packed

LITERALS = (None, 3, -7, 2.5, 1e-30, float("inf"), True, False, "a text", 'a "quoted" \\ one', "", "." * 3)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


class Results(nn.Module):
    """leaves: what is returned, by name and in order; nested as `form` says."""

    def __init__(self, leaves: list[Any], form: Any) -> None:
        super().__init__()
        self.layer, self.leaves, self.form = nn.Linear(4, 6), leaves, form
        self.wide = nn.Parameter(torch.randn(2, 4))
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def forward(self, x: Tensor, flags: Tensor, counts: Tensor) -> Any:
        y = self.layer(torch.where(flags, x, 0.0)) + counts.float()
        known = {
            "y": y, "y again": y, "folded": y.view(-1, 2, 3), "part": y[:, 1:3], "every other": y[:, ::2], "turned": y.t(),
            "tanh": y.tanh(), "truths": y > 0, "places": y.argmax(1).to(torch.int32), "whole": y.argsort(1), "x": x,
            "flags": flags, "counts": counts, "first of x": x[:, :2], "turned x": x.t(), "one": y[:, 3],
            "all": y.tanh().flatten(), "pairs": y.exp().reshape(-1, 2), "turned pairs": y.view(-1, 2, 3).mT.flatten(0, 1),
            "all of x": x.reshape(-1), "ends": y[:, 2:].flatten(), "rows": self.layer(y.reshape(-1, 2) @ self.wide),
        }  # fmt: skip
        made = [known[leaf[1]] if isinstance(leaf, tuple) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(made, pytree.tree_structure(self.form))


NAMES = ("y", "y again", "folded", "part", "every other", "turned", "tanh", "truths", "places", "whole", "x", "flags", "counts",
         "first of x", "turned x", "one", "all", "pairs", "turned pairs", "all of x", "ends", "rows")  # fmt: skip


def constant(draw: random.Random) -> Tensor:
    shape = tuple(draw.randint(0, 3) for _ in range(draw.randint(0, 3)))
    return (torch.randn(shape) * 9).to(draw.choice(DTYPES))


def results(draw: random.Random) -> Results:
    leaves: list[Any] = [("computed", "tanh")]
    for _ in range(draw.randint(1, 7)):
        kind = draw.random()
        leaves.append(
            ("computed", draw.choice(NAMES)) if kind < 0.6 else constant(draw) if kind < 0.8 else draw.choice(LITERALS)
        )
    draw.shuffle(leaves)
    cut = draw.randint(0, len(leaves))
    example = [*range(cut), {"last": list(range(cut, len(leaves)))}] if cut < len(leaves) else tuple(range(cut))
    return Results(leaves, example).eval()


def call(rows: int) -> tuple[Tensor, ...]:
    return torch.randn(rows, 4), torch.rand(rows, 4) > 0.3, torch.randint(0, 9, (rows, 1), dtype=torch.int32)


def same(got: Any, want: Any) -> None:
    found, spec = pytree.tree_flatten(got)
    leaves, wanted = pytree.tree_flatten(want)
    assert spec == wanted
    for a, b in zip(found, leaves, strict=True):
        if isinstance(b, Tensor):
            a = torch.as_tensor(a)
            a = a.view(torch.bfloat16) if a.dtype == torch.uint16 else a  # NumPy has the bits
            assert a.dtype == b.dtype and a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert type(a) is type(b) and a == b


@pytest.mark.parametrize("seed", range(30))
def test_as_the_model_returns_them(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = results(draw)
    fast = rt.compile(model, call(3))
    file = rt.save(fast, tmp_path / "m.rta", prepacked=seed % 2 == 0)
    for loaded in (rt.load(file), rt.load(file, in_place=True)):
        for rows in (1, 3, 5):
            given = call(rows)
            want = model(*given)
            same(loaded(*given), want)
            same(loaded(*(x.numpy() for x in given)), want)
            out = loaded(*given)  # as they lie
            bound = loaded.bind(*given, out=out)
            for step in (partial(loaded.run, *given, out=out), bound):
                fixed = [leaf if isinstance(leaf, Tensor) else None for leaf in model.leaves]
                for leaf, constant in zip(pytree.tree_leaves(out), fixed):
                    if isinstance(leaf, Tensor) and constant is None:
                        leaf.zero_()
                step()
                same(out, want)
            with torch.no_grad():
                for leaf in pytree.tree_leaves(out):
                    if isinstance(leaf, Tensor):
                        leaf.zero_()
            loaded.run(*given, out=out)
            same(out, want)


class Within(nn.Module):
    """Samples that are not the first of what is one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.layer(x)
        parts = y.view(-1, 2, 3)
        return {
            "turned": y.t().flatten(), "copied": (y.t() * 2.0).flatten(), "between": parts.transpose(0, 1).flatten(),
            "kept": parts.permute(1, 0, 2).flatten(0, 1), "last": parts.permute(2, 1, 0).reshape(-1, 1).tanh(),
        }  # fmt: skip


def test_samples_within_one_dimension(tmp_path: Path) -> None:
    model, x = Within().eval(), torch.randn(3, 4)
    loaded = rt.load(rt.save(rt.compile(model, x), tmp_path / "m.rta"))
    for rows in (1, 3, 5):
        x = torch.randn(rows, 4)
        same(loaded(x), model(x))
        same(loaded(x.numpy()), model(x))
    with pytest.raises(rt.ShapeError):
        loaded.run(x, out=model(x))


def test_a_constant_is_a_copy_in_each_call(tmp_path: Path) -> None:
    model = Results([("computed", "y"), torch.arange(3.0)], (0, 0)).eval()
    loaded = rt.load(rt.save(rt.compile(model, call(2)), tmp_path / "m.rta"))
    given = [x.numpy() for x in call(2)]
    loaded(*given)[1][:] = 9
    np.testing.assert_array_equal(loaded(*given)[1], [0, 1, 2])
    wrong = np.zeros((2, 6), np.float32), np.zeros(3, np.int64)
    with pytest.raises(rt.ShapeError, match="constant result"):
        loaded.run(*given, out=wrong)
    y = np.zeros((2, 6), np.float32)
    loaded.run(*given, out=(y, None))
    np.testing.assert_array_equal(y, loaded(*given)[0])
    assert [name for name, *_ in loaded.outputs] == ["output"]


def test_forged_constants_are_refused(tmp_path: Path) -> None:
    model = Results([("computed", "y"), torch.arange(3.0), 2.5], (0, 0, 0)).eval()
    whole = rt.save(rt.compile(model, call(2)), tmp_path / "m.rta").read_bytes()
    assert b'"results":"(.#!2.5)"' in whole
    for old, new in (
        (b"(.#!2.5)", b"(.##2.5)"), (b"(.#!2.5)", b"(.!!2.5)"), (b"(.#!2.5)", b"(..!2.5)"), (b"(.#!2.5)", b"(.#![[))"),
        (b'"result.0"', b'"result.1"'), (b'"F32","shape":[3]', b'"F33","shape":[3]'),
        (b'"F32","shape":[3]', b'"F32","shape":[4]'),
        (b'"F32","shape":[3]', b'"I64","shape":[3]'),
    ):  # fmt: skip
        assert whole.count(old) == 1
        with pytest.raises(rt.FormatError):
            rt.load(resealed(whole.replace(old, new)))


@pytest.mark.parametrize("seed", range(100))
def test_any_text_is_a_tree_or_refused(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choice('().[]{}#!."n,u0 1-e') for _ in range(draw.randint(0, 12)))
    for form in (text, f"(.!{text})", f"(.!{json.dumps(text)})", "(.!" + "[" * 100_000 + ")"):
        count = len(re.sub(r'"(?:[^"\\]|\\.)*"', "", form).replace("!", "").split(".")) - 1
        try:
            tree = nesting.tree_of(form, count, [np.zeros(2)] * form.count("#"))
        except ValueError:
            continue
        nesting.nested(tree, [0] * count)


class Swapped(nn.Module):
    """Reads its arguments in another order than it has them."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (c * 2.0).tanh() - b.exp() * a


def test_arguments_that_are_read_in_another_order(tmp_path: Path) -> None:
    given = tuple(torch.randn(3, n) for n in (1, 4, 4))
    loaded = rt.load(rt.save(rt.compile(Swapped().eval(), given), tmp_path / "m.rta"))
    assert [(name, shape) for name, _, shape in loaded.inputs] == [("a", (-1, 1)), ("b", (-1, 4)), ("c", (-1, 4))]
    same(loaded(*given), Swapped()(*given))


class Steps(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        self.cell, self.head, self.which = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3), which
        self.register_buffer("fixed", torch.arange(3.0))

    def forward(self, x: Tensor) -> Any:
        y, h = self.cell(x)
        z = self.head(y)
        w = z[..., :2] * 3
        return {"twice": (z, z, w), "state": (z, h, w), "nothing": (None, z, 3, w), "constant": (z, self.fixed, w)}[
            self.which
        ]


@pytest.mark.parametrize("which", ["twice", "state", "nothing", "constant"])
def test_streams_of_several_results(which: str, tmp_path: Path) -> None:
    """Each is compared with its own: a step leaves some out."""
    model = Steps(which).eval()
    live = rt.stream(model, torch.randn(2, 4))
    assert "verified against windows" in live.explain()
    loaded = rt.load(rt.save(live, tmp_path / "m.rta"))
    window = torch.randn(2, 7, 4)
    wanted = [leaf for leaf in pytree.tree_leaves(model(window)) if isinstance(leaf, Tensor) and leaf.dim() == 3]
    for step in (live.step, loaded.step):
        for t in range(7):
            got = step(window[:, t].contiguous())
        torch.testing.assert_close(got[0], wanted[0][:, -1])
        torch.testing.assert_close(got[-1], wanted[-1][:, -1])


def test_a_dimension_of_one_has_no_parts() -> None:
    """Part of a sum of repeated rows, beside that sum. Its first dimension is of size 1 and none of the plan's."""
    model = {
        "seed": 999, "example": 1, "inputs": [["float", [9]]], "pack": "dict", "arguments": [],
        "ops": [["repeat0", [0], {}], ["add_row0", [0, 0], {}], ["part_rows", [2], {}]], "outputs": {"named": [2, 3]},
    }  # fmt: skip
    given = packed(model, inputs_of(model, 1))
    fast = rt.compile(built(model), given, verify=False)
    filed = through_a_file(fast)
    assert filed is not None
    assert same_bits(pytree.tree_leaves(filed(*given)), pytree.tree_leaves(fast(*given)))

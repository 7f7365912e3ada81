"""States of swapped models with random faults: refused as a whole by a typed error, or loaded and computed with.

Seeds are printed by the test's name; `SEEDS` may be raised by hand to look longer.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.networks.nn_modules import FORMS, Holder, first, same_bits
from tests.support.networks.swapped_models import snapshot, unchanged

SEEDS = 240

Fault = Callable[[random.Random, Any], Any]


def at(rng: random.Random, t: Tensor, value: Any) -> Tensor:
    """The same with one number another."""
    t = t.clone()
    if t.numel():
        t.view(-1)[rng.randrange(t.numel())] = value
    return t


def limits(t: Tensor) -> list[Any]:
    if t.dtype.is_floating_point:
        return [0.0, -1.0, float("nan"), float("inf"), 1e-44, 1e38, 2.0**-126, 1e-30]
    info = torch.iinfo(t.dtype)
    return [info.min, info.max, 0, min(info.max, 40), min(info.max, 41), max(info.min, -1)]


def flipped(rng: random.Random, t: Tensor) -> Tensor:
    """One bit another."""
    t = t.clone()
    if t.numel():
        raw = t.contiguous().view(-1).view(torch.uint8)
        raw[rng.randrange(raw.numel())] ^= 1 << rng.randrange(8)
    return t


TENSOR: dict[str, Fault] = {
    "flip a bit": flipped,
    "an extreme number": lambda rng, t: at(rng, t, rng.choice(limits(t))),
    "all extreme": lambda rng, t: torch.full_like(t, rng.choice(limits(t))),
    "truncate": lambda rng, t: t.flatten()[: rng.randrange(t.numel() + 1)],
    "lengthen": lambda rng, t: torch.cat([t.flatten(), t.flatten()]),
    "reshape": lambda rng, t: t.reshape(-1) if rng.random() < 0.5 else t[None],
    "transpose": lambda rng, t: t.transpose(0, -1) if t.dim() else t[None],
    "empty": lambda rng, t: t.new_empty(0),
    "another dtype": lambda rng, t: t.to(
        rng.choice([torch.float64, torch.int64, torch.int16, torch.bool, torch.complex64])
    ),
    "shuffle": lambda rng, t: t.flatten()[torch.randperm(t.numel())].view(t.shape),
    "meta": lambda rng, t: t.to("meta"),
    "no tensor": lambda rng, t: rng.choice([None, 3, "text", [1.0], b"bytes", float("nan")]),
    "negative bit": lambda rng, t: torch._neg_view(t) if t.dtype.is_floating_point else t,
}


def broken(rng: random.Random, state: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    state = {key: t.clone() for key, t in state.items()}
    key = rng.choice(list(state))
    what = rng.choice([*TENSOR, "rename", "drop", "of another layer", "more"])
    if what == "rename":
        state[rng.choice([f"{key}x", key.replace("layer", "player"), key.upper(), "", "layer.weight"])] = state.pop(key)
    elif what == "drop":
        del state[key]
    elif what == "more":
        state[f"{key}.more"] = torch.zeros(2)
    elif what == "of another layer":
        state[key] = other[rng.choice(list(other))]
    else:
        state[key] = TENSOR[what](rng, state[key])
    return state


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_broken_state_is_refused_or_right(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    name = rng.choice(list(FORMS))
    form, inputs = FORMS[name], FORMS[name].inputs()
    good = Holder(form.swapped()).state_dict()
    bad = broken(rng, good, Holder(FORMS[rng.choice(list(FORMS))].swapped()).state_dict())

    plain = Holder(form.plain()).eval()
    before = snapshot(plain)
    try:
        rt.load_quantized_(plain, bad)
    except rt.RtaccelError:
        assert unchanged(plain, before), name
        loaded = None
    else:
        loaded = first(plain(*inputs))

    model = Holder(form.swapped(1)).eval()
    want = model(*inputs)
    layer = copy.deepcopy(model.layer)
    part = {key.removeprefix("layer."): t for key, t in bad.items() if key.startswith("layer.")}
    assign = rng.random() < 0.5
    try:
        layer.load_state_dict(part, assign=assign)
    except (rt.RtaccelError, RuntimeError) as error:  # names are nn.Module's to judge, by a RuntimeError
        if not isinstance(error, rt.RtaccelError) and "key(s) in state_dict" not in str(error):
            raise
        if "Attention" not in name or isinstance(error, rt.RtaccelError):
            assert same_bits(layer(*inputs), model.layer(*inputs)), name
    else:
        result = first(layer(*inputs))
        assert loaded is None or same_bits([t * plain.scale for t in result], loaded) or _nan(loaded), name
    assert same_bits(model(*inputs), want)


def _nan(tensors: list[Tensor]) -> bool:
    return any(bool(t.isnan().any()) for t in tensors)

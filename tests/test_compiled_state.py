"""A compiled model's state dict is an ordinary one: plain tensors, every safe format, checked when loaded."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rtaccel as rt


def make(seed: int, scheme="w8a8") -> rt.CompiledModel:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.LayerNorm(20), nn.Linear(20, 5)).eval()
    return rt.compile(model, (torch.randn(1, 12),), scheme, calibration=[torch.randn(64, 12) * (seed + 1)])


@pytest.mark.parametrize("scheme", ["float32", "w8a8", rt.W8A8("dynamic")], ids=str)
def test_round_trips(tmp_path, scheme) -> None:
    first, x = make(0, scheme), torch.randn(9, 12)
    want = first(x)
    state = first.state_dict()
    assert all(type(t) is torch.Tensor for t in state.values())
    torch.save(state, tmp_path / "a.pt")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "a.safetensors")
    for loaded in (state, torch.load(tmp_path / "a.pt", weights_only=True), load_file(tmp_path / "a.safetensors")):
        second = make(1, scheme)
        assert not torch.equal(second(x), want)
        second.load_state_dict(loaded)
        assert torch.equal(second(x), want)


def test_bad_state_is_refused_and_changes_nothing() -> None:
    fast, x = make(0), torch.randn(4, 12)
    want = fast(x)
    good = fast.state_dict()
    name = next(k for k in good if k.endswith("weight_scale"))
    point = next(k for k in good if k.endswith("output_zero_point"))
    weight = next(k for k, v in good.items() if v.dtype == torch.int8)
    bad = {
        name: [good[name] * float("nan"), -good[name], good[name] * 0, good[name].double(), good[name][:-1]],
        point: [torch.tensor(200, dtype=torch.int32), torch.tensor(1.0)],
        weight: [good[weight].float(), good[weight].T.contiguous(), torch.full_like(good[weight], -128)],
    }
    for key, values in bad.items():
        for value in values:
            with pytest.raises(rt.FormatError):
                fast.load_state_dict({**make(1).state_dict(), key: value})
            assert torch.equal(fast(x), want)
    with pytest.raises(RuntimeError, match="Missing key"):
        fast.load_state_dict({})


def test_copy_move_and_pickle() -> None:
    fast, x = make(0), torch.randn(4, 12)
    other = copy.deepcopy(fast)
    assert torch.equal(other(x), fast(x))
    assert fast.to("cpu") is fast
    with pytest.raises(rt.UnsupportedProblem):
        fast.half()
    with pytest.raises(rt.UnsupportedProblem, match="state_dict"):
        pickle.dumps(fast)
    assert torch.equal(fast(x), other(x))


def test_sizes_are_reported() -> None:
    int8, exact = make(0), make(0, "float32")
    assert int8.weight_bytes < exact.weight_bytes
    packed, scratch = int8.plan_bytes
    assert packed >= 12 * 20 + 20 * 5
    assert scratch > 0

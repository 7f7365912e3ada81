"""A compiled model's state dict is an ordinary one: plain tensors, every safe format, checked when loaded."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
    with pytest.raises(rt.FormatError, match=r"without params\.0"):
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


def test_values_that_are_not_needed_at_once_share_memory() -> None:
    block = 32 * 4  # samples by bytes of a float32

    def scratch(*widths: int) -> int:
        layers = [nn.Linear(k, n) for k, n in pairwise((64, *widths, 64))]
        return rt.compile(nn.Sequential(*layers).eval(), (torch.randn(1, 64),)).plan_bytes[1]

    assert scratch(128) == 128 * block
    assert scratch(128, 128) == scratch(*[128] * 9) == 2 * 128 * block
    assert scratch(128, 64, 256, 64, 128) == (256 + 64) * block

    class Long(nn.Module):
        """The first value is needed until the end."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 96), nn.Linear(96, 4)
            self.body = nn.Sequential(*[nn.Linear(96, 96) for _ in range(5)])

        def forward(self, x: Tensor) -> Tensor:
            kept = self.first(x)
            return self.last(torch.relu(self.body(torch.tanh(kept)) * kept))

    model, x = Long().eval(), torch.randn(70, 64)
    fast = rt.compile(model, (x[:1],))
    assert fast.plan_bytes[1] == 3 * 96 * block
    for _ in range(2):
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_a_layer_that_is_called_again_counts_once(scheme: str) -> None:
    class Again(nn.Module):
        def __init__(self, calls: int) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(24, 24), calls

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.calls):
                x = torch.tanh(self.layer(x))
            return x

    one, four = (
        rt.compile(Again(calls).eval(), (torch.randn(2, 24),), scheme, calibration=[torch.randn(32, 24)])
        for calls in (1, 4)
    )
    assert one.weight_bytes <= four.weight_bytes <= one.weight_bytes + 4 * 16  # with scales of values, not with weights

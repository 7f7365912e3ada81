"""A compiled model is an nn.Module: hooks on it, and hooks on every module, run."""

from __future__ import annotations

import torch
from torch import nn

import rtaccel as rt


def test_forward_hooks_run() -> None:
    fast = rt.compile(nn.Linear(4, 4).eval(), (torch.randn(1, 4),))
    x = torch.randn(2, 4)
    want = fast(x)
    seen: list[str] = []
    handles = [
        fast.register_forward_pre_hook(lambda module, args: seen.append("before")),
        fast.register_forward_hook(lambda module, args, out: seen.append("after")),
        nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append("any")),
    ]
    assert torch.equal(fast(x), want)
    assert sorted(seen) == ["after", "any", "before"]
    for handle in handles:
        handle.remove()
    assert torch.equal(fast(x), want)
    assert len(seen) == 3


def test_it_sits_inside_other_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU()).eval()
    whole = nn.Sequential(rt.compile(model, (torch.randn(1, 4),)), nn.Linear(6, 2))
    x = torch.randn(3, 4)
    torch.testing.assert_close(whole(x), whole[1](model(x)), rtol=1e-5, atol=1e-6)
    assert "0.params.0.weight" in whole.state_dict()

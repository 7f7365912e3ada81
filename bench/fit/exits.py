"""What leaving early takes and saves."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

import rtaccel as rt
from bench.fit.figures import LOOSE
from rtaccel.search.cost_table import whole_calls


def test_between_stages() -> None:
    """Nanoseconds of a test: a call through two stages, with a test that no row passes and with none; interleaved minima."""
    for outputs in (2, 10):
        x = torch.randn(1, 16)
        pair = [rt.compile(nn.Linear(16, outputs).eval(), (x,)) for _ in range(2)]
        calls = {}
        for name in ("confidence", "margin", "entropy", "energy", "value"):
            never = rt.Exit(name, below=-1e30) if name == "entropy" else rt.Exit(name, above=1e30)
            cascade = rt.Cascade(pair, [never])
            calls[name] = cascade.bind(x.clone(), cascade(x))
            calls["none"] = cascade.bind(x.clone(), cascade(x), worst=True)
        us = whole_calls(calls, 8.0, rounds=2000)
        print(f"{outputs} outputs: two stages {1e3 * us['none']:.0f} ns; a test between them: "
              + ", ".join(f"{name} {1e3 * (t - us['none']):.0f} ns" for name, t in us.items() if name != "none"))  # fmt: skip


def digits(seconds: float) -> None:
    """A network on scikit-learn's digits, alone and with a small one in front; 3 % permitted."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, seen, fresh = order[:700], order[700:1000], order[1000:]

    def trained(*sizes: int) -> nn.Module:
        torch.manual_seed(0)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        model = nn.Sequential(*layers[:-1])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(150):
            loss = nn.functional.cross_entropy(model(x[train]), labels[train])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval()

    small, full = trained(64, 24, 10), trained(64, 512, 512, 10)

    def accuracy(model: nn.Module) -> float:
        return float((model(x[fresh]).argmax(1) == labels[fresh]).double().mean())

    for options in (("float32", "w8a8", rt.LowRank(0.3)), ("float32", "w8a8", rt.LowRank(0.3), rt.EarlyExit(small))):
        fit = rt.fit_budget(
            full, x[:1], LOOSE, [x[seen]], metric=accuracy, max_drop=0.03, options=options, seconds=seconds
        )
        print(f"digits, {'with' if len(options) > 3 else 'without'} an early exit: {fit.seconds:.1f} s; {fit.reason}")

"""Weights that are swapped while a loop runs the model: each output is of one set of weights, and the loop goes on."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

import rtaccel as rt


def test_each_output_is_of_one_set_of_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
    x = torch.randn(1, 6)
    fast = rt.compile(net, x)
    own = fast.state_dict()
    other = {k: v * 0.5 if v.is_floating_point() else v for k, v in own.items()}
    expected = rt.compile(net, x)
    answers = [fast(x).numpy().copy()]
    expected.load_state_dict(other)
    answers.append(expected(x).numpy().copy())
    assert not np.array_equal(*answers)
    read, write = rt.Latest((1, 6)), rt.Latest((1, 4))
    read.put(x.numpy())
    seen = set()
    with rt.Loop(
        fast, read=read, write=write, period_us=500, deadline_us=400, max_age_us=10_000_000, on_stale="hold"
    ) as loop:
        for i in range(40):
            fast.swap((other, own)[i % 2])
            deadline = time.monotonic() + 60
            while fast.swap_pending and time.monotonic() < deadline:
                time.sleep(0.001)
            assert not fast.swap_pending
            deadline = time.monotonic() + 60
            want = answers[1 - i % 2]
            while time.monotonic() < deadline:
                got = write.get()
                if got.status != "none":
                    value = np.asarray(got.value).copy()
                    assert any(np.array_equal(value, a) for a in answers)
                    if np.array_equal(value, want):
                        seen.add(i % 2)
                        break
                read.put(x.numpy())
                time.sleep(0.001)
            else:
                raise AssertionError("the new weights never came out")
        fast.rollback()
        assert loop.stats().cycles > 0
    assert seen == {0, 1}

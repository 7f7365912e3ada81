"""Plans of one model in several threads: packed weights that lie in a file are there once for all of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt

WIDTH, LAYERS, PLANS = 512, 8, 6
SMAPS = Path("/proc/self/smaps_rollup")


def own_bytes() -> int:
    """Memory that this process has written to: what plans read from a file is not in it."""
    line = next(line for line in SMAPS.read_text().splitlines() if line.startswith("Private_Dirty"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux's /proc/self/smaps_rollup")
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_plans_in_threads_share_a_copy(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(LAYERS) for part in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
    x = torch.randn(64, WIDTH)
    fast = rt.compile(torch.nn.Sequential(*layers).eval(), x[:1], scheme, calibration=[x] if scheme == "w8a8" else None)
    file = rt.save(fast, tmp_path / "model.rta", prepacked=True)
    copy_bytes = LAYERS * WIDTH * WIDTH * (1 if scheme == "w8a8" else 4)
    one = rt.load(file, in_place=True)
    rows = x[:1].numpy()
    expected = one(rows)

    before = own_bytes()
    plans = [rt.load(file, in_place=True) for _ in range(PLANS)]
    found: list[Any] = [None] * PLANS

    def run(number: int) -> None:
        for _ in range(50):
            found[number] = plans[number](rows)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(PLANS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown = own_bytes() - before
    for y in found:
        np.testing.assert_array_equal(y, expected)
    assert grown < PLANS * copy_bytes / 4, f"{grown / PLANS / copy_bytes:.2f} of the weights for each plan"

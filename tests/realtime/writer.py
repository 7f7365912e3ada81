"""Another process that writes a slot, until it is killed: `python writer.py NAME COUNT FIRST PAUSE_US`."""

from __future__ import annotations

import sys

import numpy as np

import rtaccel as rt
from rtaccel import _native as native


def main(name: str, count: int, first: int, slowly: bool) -> None:
    slot = rt.Latest.open(name)
    if slowly:  # from Python, value by value
        for number in range(first, first + count):
            slot.put(np.full(slot.shape, number, np.int64))
    else:
        assert native.latest_soak_put(slot, count, first) > 0
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "slowly")

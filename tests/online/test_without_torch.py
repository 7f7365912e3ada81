"""rt.online works, and stays, without torch: in a process that never imports it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import numpy as np
import rtaccel as rt

head = rt.online.RLSHead(3, 1)
head.learn_one(np.ones(3), 1.0)
rt.online.FTRLHead(16).learn_one({"a": 1.0}, 1)
rt.online.Records().score_one(1.0, 1e9)
rt.online.Bank(2, [rt.online.features.Ewma(0.1)]).step([1.0, 2.0])
learner = rt.online.Adapt(lambda x: (x[:, :1], x))
learner(np.ones((1, 3), np.float32))
learner.learn(2.0)
assert learner.head.learned == 1
print(sorted(set(sys.modules) & {"torch", "river", "numba", "scipy"}))
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"

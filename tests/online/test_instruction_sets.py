"""The same bits of heads and features on every instruction set that this CPU has."""

from __future__ import annotations

import os
import subprocess

import pytest

from rtaccel import _native
from tests.support.processes.run import PYTHON

SCRIPT = """
import hashlib
import numpy as np
from rtaccel.online import Bank, KalmanHead, RLSHead
from rtaccel.online.features import Ewma, First, Lag, Max, Mean, Min, SeasonMean, Slope, Value

rng = np.random.default_rng(0)
digest = hashlib.sha256()
for features, outputs in [(1, 1), (7, 3), (16, 1), (33, 12), (100, 2)]:
    for head in (RLSHead(features, outputs, forget=0.99), KalmanHead(features, outputs, process_noise=1e-3, every=5)):
        digest.update(head.learn_many(rng.normal(size=(60, features)), rng.normal(size=(60, outputs))).tobytes())
        digest.update(np.float32(head.variance_one(rng.normal(size=features))))
        for value in head.state_dict().values():
            digest.update(value.tobytes())
kinds = [Value(), Ewma(0.1), Min(), Max(), Mean(), First(3), Value() - Lag(2)]
kinds += [Slope(0.2), SeasonMean(5), Ewma(0.3, of=Slope(0.5))]
bank = Bank(7, kinds, streams=5)
x = rng.normal(size=(50, 5, 7)).astype(np.float32)
x[rng.random(x.shape) < 0.1] = np.nan
digest.update(bank.run(x).tobytes())
print(digest.hexdigest())
"""


def digest(isa: str) -> str:
    done = subprocess.run(
        [*PYTHON, "-c", SCRIPT],
        env={**os.environ, "RTACCEL_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bits_are_the_same() -> None:
    names = _native.isas()
    best = _native.isa()
    here = names[: names.index(best) + 1]
    sets = [isa for isa in here if isa in ("portable", "avx2", "avx512", "neon")]
    if len(sets) < 2:
        pytest.skip(f"this CPU has {sets} alone")
    assert len({digest(isa) for isa in sets}) == 1

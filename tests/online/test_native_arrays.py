"""Native online objects take arrays as they are: what would need a copy is a TypeError, and nothing is written to a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rtaccel import _native as native


def head() -> Any:
    return native.UdHead(3, 2, 1.0, 1.0, 1.0, 1e6)


WRONG = {
    "float64": np.ones(3),
    "int64": np.ones(3, np.int64),
    "in strides": np.ones(6, np.float32)[::2],
    "a list": [1.0, 1.0, 1.0],
    "float64 of torch": torch.ones(3, dtype=torch.float64),
}


@pytest.mark.parametrize("x", WRONG.values(), ids=WRONG)
def test_inputs_that_would_be_copied(x: Any) -> None:
    made, y = head(), np.ones(2, np.float32)
    with pytest.raises(TypeError):
        made.learn(x, y, np.zeros(2, np.float32))
    with pytest.raises(TypeError):
        made.variance(x)
    assert made.counts()[0] == 0


@pytest.mark.parametrize(
    "out", [np.zeros(2), np.zeros(4, np.float32)[::2], [0.0, 0.0]], ids=["float64", "strides", "list"]
)
def test_outputs_that_would_be_written_to_a_copy(out: Any) -> None:
    made, phi = head(), np.ones(3, np.float32)
    with pytest.raises(TypeError):
        made.predict_many(1, phi, out)
    with pytest.raises(TypeError):
        native.UdBound(made, phi, None, out)


def test_arrays_that_fit_are_read_and_written_in_place() -> None:
    made, error = head(), np.full(2, np.nan, np.float32)
    for phi in (np.array([1, 2, 3], np.float32), torch.tensor([1.0, 2.0, 3.0])):
        assert made.learn(phi, np.array([4, 5], np.float32), error)
        assert np.isfinite(error).all()
    y = np.full(2, np.nan, np.float32)
    made.predict_many(1, np.array([1, 2, 3], np.float32), y)
    assert np.allclose(y, [4, 5], atol=0.5)

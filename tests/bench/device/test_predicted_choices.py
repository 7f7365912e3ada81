"""The form that a sparse layer is computed in is the one that is predicted to be the fastest, or hardly slower."""

from __future__ import annotations

import importlib.util
import json

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)

from bench.device.predict import choices
from rtaccel.plan import sparse_gpu
from rtaccel.plan.sparse_gpu import modeled

TABLE = json.loads(choices.RESULT.read_text())
NEAR = 1.1
"""A form that is predicted to take so much longer than the fastest may be taken: the ends of the machine are farther apart."""


def middle(us: tuple[float, float]) -> float:
    return sum(us) / 2


def taken(m: int, size: int, pattern: str) -> float:
    """The prediction of the form that is taken, over that of the fastest; infinite where it is not in the table."""
    of = {label: middle(us) for label, us in TABLE[choices.title(m, size, pattern)].items()}
    label = choices.label_of(modeled(choices.dense_stage(size, pattern), m).stage)
    return of.get(label, float("inf")) / min(of.values())


def test_the_table_has_every_layer() -> None:
    assert list(TABLE) == [choices.title(*row) for row in choices.rows()]
    for m, size, pattern in choices.rows():
        labels = {choices.label_of(stage) for stage in choices.forms(choices.dense_stage(size, pattern), m, pattern)}
        assert set(TABLE[choices.title(m, size, pattern)]) == labels


@pytest.mark.parametrize(("m", "size", "pattern"), list(choices.rows()), ids=lambda v: str(v))
def test_the_form_that_is_taken_is_predicted_to_be_the_fastest(m: int, size: int, pattern: str) -> None:
    assert taken(m, size, pattern) <= NEAR


def test_a_wrong_chooser_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what gathers and products take, 16 rows are computed by a kernel that takes half as long again."""
    monkeypatch.setattr(sparse_gpu, "GATHERS", 1e12)
    monkeypatch.setattr(sparse_gpu, "SPARSE_PART", 1e6)
    assert taken(16, 4096, "unstructured 90%") > 1.5


def test_a_form_is_counted_again() -> None:
    """From the machine code of today."""
    stage = choices.dense_stage(1024, "2:4")
    want = TABLE[choices.title(1, 1024, "2:4")]["dense"]
    assert choices.us_of(stage, 1) == pytest.approx(want, rel=0.05)

"""What is predicted is a row of the table, every goal has a prediction, and what was counted of the code is still so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.device import goals, launches, layers, predictions, table
from bench.device.predict import gaps, rows, single, text
from bench.device.predict.rows import NOT_THERE, Range
from bench.device.predictions import HIGH, LOW, ONE_POLL, Polls, Work, message_us
from tests.turns import turn

NAMES = {name: row for row in table.rows() for name in row.names}


def test_what_is_predicted_is_a_row_or_says_that_it_is_none() -> None:
    known = rows.of_rows()
    absent = {name for name in known if name not in NAMES}
    assert absent == {name for name in known if name.endswith(NOT_THERE)}
    assert len(absent) == 7 and not any(NAMES[name].check for name in known if name in NAMES)


def test_every_goal_has_a_prediction() -> None:
    """Of the field that it is about, and so has the row that it is compared with."""
    known = rows.of_rows()
    for goal in goals.GOALS:
        assert known[goal.row].field == goal.field, goal.row
        assert not goal.over or known[goal.over].field == goal.field, goal.over


def test_every_other_row_has_a_reason_and_every_reason_has_rows() -> None:
    without = text.unpredicted()
    found = gaps.reasons(without)
    assert sum(map(len, found.values())) == len(without) and all(found.values())
    assert len(without) + len([n for n in rows.of_rows() if n in NAMES]) == len(
        [n for n in NAMES if not NAMES[n].check]
    )
    with pytest.raises(KeyError, match="another row"):
        gaps.reasons(["another row"])
    page = predictions.PAGE.read_text()
    assert all(why in page for why in gaps.WHY.values())


def test_a_row_has_the_way_to_poll_of_its_kernel() -> None:
    """The judged null model is that with warps that poll; Triton's has one poll."""
    sums, queued = (json.loads(path.read_text()) for path in (predictions.RESULT, predictions.QUEUES))
    name, known = "null model, persistent", rows.of_rows()
    null = sums[name] | queued[name]
    for end, way in (("", "four warps that poll"), (", by Triton", "one poll"), (", GDR mapping", "GDR mapping")):
        assert known[f"null model, persistent{end}"] == Range("p99_us", null[way]["low"][1], null[way]["high"][1])
    assert known["null model, persistent"].high < known["null model, persistent, by Triton"].low * 1.2


@pytest.mark.parametrize(
    ("measured", "said"), [(None, "-"), (2.0, "inside"), (3.0, "inside"), (1.5, "-25 %"), (3.3, "+10 %")]
)
def test_the_error_of_a_range(measured: float | None, said: str) -> None:
    assert Range("p99_us", 2.0, 3.0).error(measured) == said


# -- a stream of convolutions ------------------------------------------------------------------------------------------


def test_who_sends_at_once_waits_for_what_is_summed_before() -> None:
    """The first look comes when the sums are there, and takes its way to the message and back."""
    quiet = replace(LOW, host_us=0.0)
    before = 1755.0 * 4  # four us
    us = message_us(quiet, Work(before=before), np.random.default_rng(0))
    assert us.min() == pytest.approx(us.max()) == pytest.approx(4 - 0.5 + 2 * 0.5 + 0.5)
    soon = message_us(quiet, Work(before=100.0), np.random.default_rng(0))
    assert soon.mean() == pytest.approx(message_us(quiet, Work(), np.random.default_rng(0)).mean(), abs=0.01)


def test_a_stream_of_convolutions_in_cycles() -> None:
    """Three layers hold their newest taps, 21 older ones are read from L2; of nine layers four hold theirs."""
    wide, deep = (partial(predictions.tcn, *size)(Polls()) for size in ((3, 128, 8), (9, 128, 3)))
    assert wide.reads == 0 and wide.before == pytest.approx(21 * 16384 / 64)
    assert deep.reads == 5 and deep.before == pytest.approx(18 * 16384 / 64)
    assert deep.clocks == pytest.approx(3 * wide.clocks + 5 * 16384 / 64)
    assert predictions.ways_of("TCN 3x128 k8, one time step") == (ONE_POLL,)
    small = predictions.tcn(6, 64, 3, Polls())  # whole in registers: products alone
    assert small.reads == 0 and small.before < 12 * 4096 / 64
    assert HIGH.l2_us > LOW.l2_us


# -- whole graphs of a layer -------------------------------------------------------------------------------------------


def todays_third(cases: Sequence[Any]) -> list[Any]:
    return [case for i, case in enumerate(cases) if i % 3 == turn(3)]


@pytest.mark.parametrize("layer", todays_third(list(single.rows())), ids=lambda layer: layer.title)
def test_a_layer_in_a_graph_is_predicted_by_what_would_be_launched(layer: single.SingleLayer) -> None:
    pytest.importorskip("triton")
    kept = json.loads(predictions.LAYERS.read_text())[layer.title]
    facts = [layers.Launch(**fact) for fact in kept["launches"]]
    now = single.launches_of(layer, lambda spec: "")
    assert [replace(fact, loop=0, rest=0) for fact in facts] == now
    assert all(fact.loop + fact.rest > 20 for fact in facts)
    low, high = (round(layers.total_us(facts, card), 1) for card in layer.ends)
    assert (low, high) == (kept["low"], kept["high"])


def test_sparse_launches_move_what_their_weights_have() -> None:
    """Unstructured at 90 %: 34 % in lines of four. In blocks: a tenth. In 2:4: a half, and marks for an eighth."""
    kept = json.loads(predictions.LAYERS.read_text())

    def weights(title: str, form: str) -> float:
        (launch,) = [f for f in kept[title]["launches"] if f["form"].startswith(form)]
        return float(launch["bytes"]) / 4096**2

    assert weights("sparse 1x4096x4096 unstructured 90% cold, rtaccel w8a8", "sparse_gemv") == pytest.approx(
        0.344 * 1.5, abs=0.02
    )
    assert weights("sparse 16x4096x4096 64x64 blocks 90% cold, rtaccel w8a8", "sparse_dot") == pytest.approx(
        0.1, abs=0.03
    )
    assert weights("sparse 1x4096x4096 2:4 cold, rtaccel w8a8", "sparse_semi") == pytest.approx(0.625, abs=0.02)


# -- the code itself, in turns -----------------------------------------------------------------------------------------

TOLERANCE = 0.02
"""Of instructions, and of those of a loop. By the version of Triton that wrote the files they are the same. A change of a kernel
that moves them by more is to be seen, and the files written anew."""

WRITTEN_WITH = "3.9"
EACH_DAY = 3


def of_today(count: int, cases: Sequence[Any]) -> list[Any]:
    """So many in turn, all of them within some weeks."""
    first = count * turn(-(-len(cases) // count))
    return list(cases[first : first + count])


def near(now: int, then: int) -> bool:
    return abs(now - then) <= max(TOLERANCE * then, 2)


def needs_its_triton() -> None:
    triton = pytest.importorskip("triton")
    if not triton.__version__.startswith(WRITTEN_WITH):
        pytest.skip(f"the counts are of Triton {WRITTEN_WITH}")


@pytest.mark.parametrize("layer", of_today(EACH_DAY, list(single.rows())), ids=lambda layer: layer.title)
def test_the_code_of_a_layer_in_a_graph_is_what_was_counted(layer: single.SingleLayer) -> None:
    needs_its_triton()
    check_counts(json.loads(predictions.LAYERS.read_text())[layer.title], single.launches_of(layer))


@pytest.mark.parametrize("row", of_today(EACH_DAY, list(layers.rows())), ids=lambda row: row[0])
def test_the_code_of_a_layer_is_what_was_counted(row: tuple[str, str, str, str]) -> None:
    needs_its_triton()
    title, *what = row
    check_counts(json.loads(predictions.LAYERS.read_text())[title], layers.launches_of(*what))


def check_counts(kept: dict[str, Any], now: Sequence[layers.Launch]) -> None:
    for fact, launch in zip(kept["launches"], now, strict=True):
        assert near(launch.loop, fact["loop"]) and near(launch.rest, fact["rest"]), (fact, launch)


@pytest.mark.parametrize("row", of_today(2, launches.rows()), ids=lambda row: row[0])
def test_the_code_of_a_graph_is_what_was_counted(row: tuple[str, str, str, str, str]) -> None:
    needs_its_triton()
    from rtaccel.kernels._gpu import cuda_nvrtc

    title, *what = row
    if cuda_nvrtc.unavailable() is not None:
        pytest.skip(str(cuda_nvrtc.unavailable()))
    kept = json.loads(predictions.LAUNCHES.read_text())[title]
    now, _ = launches.captured(*what, launches.compiled)  # type: ignore[call-arg,arg-type]
    for fact, launch in zip(kept["launches"], now, strict=True):
        assert near(launch.instructions, fact["instructions"]) and near(launch.loop, fact["loop"]), (fact, launch)


def test_a_count_that_is_stale_is_seen() -> None:
    launch = layers.Launch("any", 1, 1, 1, 1, 100, 500, 1)
    kept: dict[str, Any] = {"launches": [{"form": "any", "loop": 100, "rest": 500}]}
    check_counts(kept, [launch])
    check_counts(kept, [replace(launch, rest=509)])
    for changed in (replace(launch, rest=511), replace(launch, loop=97)):
        with pytest.raises(AssertionError):
            check_counts(kept, [changed])


def test_all_have_their_turn() -> None:
    cases, days = list(range(35)), -(-35 // EACH_DAY)
    assert sorted(case for day in range(days) for case in cases[EACH_DAY * day : EACH_DAY * (day + 1)]) == cases

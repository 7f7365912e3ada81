"""Every one of the error inputs of cuts, endpoints, remotes and frames: the exact type, and the words that matter."""

from __future__ import annotations

import re
from typing import Any

import pytest

import rtaccel as rt
from tests.error_inputs import edge


def test_each_is_named_once() -> None:
    names = [case[0] for case in edge.CASES]
    assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize("case", edge.CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_error_input(case: Any) -> None:
    _, call, error, words = case
    with pytest.raises(rt.RtaccelError) as caught:
        call()
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    assert re.search(words, str(caught.value)), str(caught.value)[:500]
    assert caught.value.next_step
    assert len(str(caught.value)) < 2_000


def test_what_was_refused_was_not_sent() -> None:
    remote = edge.remote()
    for _, call, _, _ in [case for case in edge.CASES if case[0].startswith("Remote")]:
        with pytest.raises(rt.RtaccelError):
            call()
    with pytest.raises(rt.FormatError):
        remote.post(edge.X, stamp_ns=2**70)
    assert (remote.stats().sent, len(remote._asked)) == (0, 0)
    assert remote(edge.X).shape == (2, 5)

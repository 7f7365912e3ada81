"""Each wrong input of the swapping part of the library gives its error: the exact type, the words that matter."""

from __future__ import annotations

import pytest

import rtaccel as rt
from tests.error_inputs.swap import CASES


def test_there_are_enough_and_no_name_comes_twice() -> None:
    assert len(CASES) >= 120 and len({name for name, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize("name", [name for name, *_ in CASES])
def test_error(name: str) -> None:
    call, kind, said = next((call, kind, said) for n, call, kind, said in CASES if n == name)
    with pytest.raises(rt.RtaccelError) as caught:
        call()
    error = caught.value
    if kind is rt.RtaccelError:  # one of two, by who finds it first
        assert type(error) in (rt.ShapeError, rt.FormatError)
    else:
        assert type(error) is kind
    assert all(word in str(error) for word in said), str(error)
    assert error.op and error.expected and error.next_step and "TreeSpec" not in str(error)

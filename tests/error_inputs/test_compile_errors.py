"""Every one of the error inputs: the exact type, the words that matter, and everything else works on."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

import rtaccel as rt
from tests.error_inputs import compile as inputs
from tests.error_inputs import models


def test_there_are_enough_and_each_is_named_once() -> None:
    assert len(inputs.CASES) >= 150
    assert len({name for name, *_ in inputs.CASES}) == len(inputs.CASES)


@pytest.mark.parametrize("case", inputs.CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_error_input(case: Any) -> None:
    _, call, error, words = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(rt.RtaccelError) as caught:
            call()
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    assert re.search(words, str(caught.value)), str(caught.value)
    assert caught.value.next_step


def test_after_all_of_it_models_and_streams_give_what_they_gave() -> None:
    model, live = models.fast.__wrapped__(), models.live.__wrapped__()
    models.live().reset()
    x = torch.randn(2, 4)
    assert torch.equal(models.fast()(models.X), model(models.X))
    assert torch.equal(models.live().step(x), live.step(x))

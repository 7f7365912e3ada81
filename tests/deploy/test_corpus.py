"""The small files that the fuzzer of the loader begins with: those named bad are refused, the others run."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

import rtaccel as rt
import rtaccel._native as native
from tests.deploy import forged

FILES = sorted((Path(__file__).parents[1] / "native" / "corpus").glob("*.rta"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_corpus(file: Path) -> None:
    if file.stem.startswith("bad-"):
        with pytest.raises((rt.FormatError, rt.BackendUnavailable), match="load: got"):
            rt.load(file)
        with pytest.raises((rt.FormatError, rt.BackendUnavailable)):
            rt.load(file, in_place=True)
        return
    for in_place in (False, True):
        model = rt.load(file, in_place=in_place)
        with contextlib.suppress(ValueError):  # random numbers as indices: the input is refused
            forged.run(model, random.Random(0))


def test_there_are_some() -> None:
    assert len(FILES) > 60
    assert sum(file.stat().st_size for file in FILES) < 250_000


def test_every_operator_is_in_it() -> None:
    """So that the fuzzer begins with a small file of each."""
    found = set()
    for file in FILES:
        if not file.stem.startswith("bad-"):
            found |= {op for _, op, _ in rt.load(file)._native.stages}
    assert found == {op for op, _, _ in native.kernels()}

"""The Numenta Anomaly Benchmark of the test data, with the scorer of the example."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.anomaly_stream.nab import Series, file_score, read, standard_score

__all__ = ["file_score", "series", "standard_score"]


def series() -> list[Series]:
    """Those of the folder nab in the test data; skips where it is not there."""
    folder = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "nab"
    if not folder.exists():
        pytest.skip(f"no {folder}: set RTACCEL_TEST_DATA")
    return read(folder)

"""The soak at a size that a test run has time for."""

from __future__ import annotations

from tests.generated.soak import soak
from tests.support.generators.count import case, examples


def test_steps_without_drift_or_growth() -> None:
    done, _ = soak(examples(150_000), seconds=600)
    assert done >= 150_000
    case("soak", done // 1000)  # a pass is a case

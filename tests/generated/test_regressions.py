"""What generated tests once found, again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.generators.failures import REGRESSIONS
from tests.support.generators.replay import replay


@pytest.mark.parametrize("file", sorted(REGRESSIONS.glob("*.json")), ids=lambda file: file.stem)
def test_once_found(file: Path) -> None:
    replay(file)

"""What tests of several verbs are given."""

from __future__ import annotations

from pathlib import Path

import pytest

SHAPES = """
[[softmax]]
name = "tiny"
rows = 2
c = 9

[[linear]]
name = "16x8"
rows = 3
n = 16
k = 8
scheme = "static"
"""


@pytest.fixture
def shapes(tmp_path: Path) -> str:
    path = tmp_path / "shapes.toml"
    path.write_text(SHAPES)
    return str(path)

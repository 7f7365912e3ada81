"""The reference page is what the tables say."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_the_page_is_up_to_date() -> None:
    path = Path(__file__).parents[3] / "docs" / "write_onnx_operators.py"
    spec = importlib.util.spec_from_file_location("write_onnx_operators", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/write_onnx_operators.py"

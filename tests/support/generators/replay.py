"""Runs the cases of files again: python -m tests.support.generators.replay FILE.json ..."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

CHECKS = {
    "batches": ("test_batches", "check"),
    "attributes": ("test_batches", "check_attributes"),
    "tensors": ("test_tensors", "check"),
    "streams": ("test_tensors", "check_stream"),
    "states": ("test_states", "check"),
    "module states": ("test_states", "check_module"),
    "pasts": ("test_states", "check_pasts"),
}
"""What a file names as its check: the module of tests/generated and its function."""


def replay(file: Path) -> None:
    """Raises what the case raised, if it still does."""
    found = json.loads(file.read_text(encoding="utf-8"))
    module, name = CHECKS[found["check"]]
    getattr(importlib.import_module(f"tests.generated.{module}"), name)(found["case"])


if __name__ == "__main__":
    for path in sys.argv[1:]:
        replay(Path(path))
        print(f"{path}: as it should be")

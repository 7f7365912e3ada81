"""Failing cases as files: what Hypothesis ends with is the smallest it found, and lies in tests/regressions/ when it is done."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

REGRESSIONS = Path(__file__).parent.parent.parent / "regressions"


class Wrong(AssertionError):
    """A result, or an error, that should not be. kind: a few words that tell one cause from another."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {text}")


def checked(check: str, case: Any, run: Callable[[Any], None]) -> None:
    """Runs one case; where it fails it is written down. A smaller one that fails alike is written over it."""
    try:
        run(case)
    except Exception as error:
        kind = error.kind if isinstance(error, Wrong) else type(error).__name__
        name = re.sub(r"[^a-z0-9]+", "-", f"new {check} {kind}".lower())[:60]
        text = str(error)[:600].replace(os.getcwd(), ".")
        folder = Path(os.environ.get("RTACCEL_REGRESSIONS", REGRESSIONS))
        content = {"check": check, "error": text, "case": case}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        raise

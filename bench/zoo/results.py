"""Where results lie: one JSON file for surveys, one for doors, one for latencies per processor and date."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
SURVEY = RESULTS / "zoo-survey.json"
DOORS = RESULTS / "zoo-doors.json"
GPU = RESULTS / "zoo-gpu.json"

Record = dict[str, Any]


def latency_file(cpu: str | None, today: date) -> Path:
    kind = re.sub(r"[^a-z0-9]+", "-", (cpu or "cpu").lower()).strip("-")
    return RESULTS / f"zoo-{kind}-{today.isoformat()}.json"


def read(path: Path) -> Record:
    """What is stored, or an empty record."""
    found: Record = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, sort_keys=False) + "\n")


def newest_latency(folder: Path = RESULTS) -> Path | None:
    """The latest file of latencies by the date in its name; None where there is none."""
    return max(folder.glob("zoo-*-????-??-??.json"), key=lambda path: path.stem[-10:], default=None)

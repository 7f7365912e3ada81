"""Each network in a process of its own, with a limit of time: a crash or a hang costs one row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.zoo.entry import Entry, version
from bench.zoo.survey import Survey

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 300.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def survey_alone(entry: Entry, limit: float = LIMIT_SECONDS, worker: str = "bench.zoo.worker") -> Survey:
    """What the process says, or that it ended without saying anything, or took longer than `limit` seconds."""
    blank = Survey(entry.name, entry.domain, entry.package, "crashed", version(entry.package))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "survey.json"
        command = [sys.executable, "-m", worker, entry.name, str(target)]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": python_path()}
        try:
            ended = subprocess.run(
                command, env=environment, cwd=folder, timeout=limit, check=False, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return replace(blank, status="timed out", reason=f"no result after {limit:.0f} s")
        if target.exists():
            return Survey.from_json(json.loads(target.read_text()))
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        return replace(blank, reason=f"its process ended with status {ended.returncode}: {last}"[:400])


def python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def survey_all(
    chosen: Sequence[Entry],
    record: dict[str, Any],
    save: Callable[[Mapping[str, Any]], None],
    limit: float = LIMIT_SECONDS,
) -> None:
    """Surveys one after the other into record["networks"], saved after each, so that a run that is cut short keeps its rows."""
    for number, entry in enumerate(chosen, 1):
        found = survey_alone(entry, limit)
        record.setdefault("networks", {})[entry.name] = found.as_json()
        save(record)
        share = f"{found.native} of {found.stages}" if found.stages else found.reason[:90]
        print(f"{number}/{len(chosen)} {entry.name}: {found.status}, {share}", flush=True)

"""Each network in a process of its own. A door that ends it, or takes too long, costs itself: another goes on behind it."""

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

from bench.zoo.alone import ONE_THREAD, python_path
from bench.zoo.doors.outcome import FAULTS, Doors, Outcome
from bench.zoo.entry import Entry, version

WORKER = "bench.zoo.doors.worker"
BEGUN = "begun"
"""Key of the worker's file: the door that it tries."""


def go_alone(entry: Entry, doors: Sequence[str], limit: float, worker: str = WORKER) -> Doors:
    """What the processes say of a network; each may take `limit` seconds."""
    found = Doors(entry.name, entry.domain, entry.package, "crashed", version(entry.package))
    left = list(doors)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "doors.json"
        while left:
            target.unlink(missing_ok=True)
            ended = _ended([sys.executable, "-m", worker, entry.name, str(target), *left], folder, limit)
            if not target.exists():  # nothing was compiled
                return replace(found, status=ended.status, reason=ended.text) if not found.by_door else found
            said = json.loads(target.read_text())
            begun = said.pop(BEGUN)
            earlier = found.by_door
            found = Doors.from_json(said)
            found.by_door.update(earlier)
            if not begun:
                return found
            found.by_door[begun] = ended
            left = left[left.index(begun) + 1 :]
    return found


def _ended(command: list[str], folder: str, limit: float) -> Outcome:
    """How a process ended, as the outcome of the door that it was in."""
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": python_path()}
    try:
        ended = subprocess.run(
            command, env=environment, cwd=folder, timeout=limit, check=False, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return Outcome("timed out", text=f"no result after {limit:.0f} s")
    last = (ended.stderr.strip().splitlines() or [""])[-1]
    return Outcome("crashed", text=f"its process ended with status {ended.returncode}: {last}"[:400])


def go_all(
    chosen: Sequence[Entry],
    doors: Sequence[str],
    record: dict[str, Any],
    save: Callable[[Mapping[str, Any]], None],
    limit: float,
) -> None:
    """One network after the other into record["networks"], saved after each. Doors that a record has beside `doors` are kept."""
    for number, entry in enumerate(chosen, 1):
        found = go_alone(entry, doors, limit)
        kept = record.setdefault("networks", {}).get(entry.name, {}).get("by_door", {})
        stored = found.as_json()
        stored["by_door"] = {**kept, **stored["by_door"]}
        record["networks"][entry.name] = stored
        save(record)
        print(f"{number}/{len(chosen)} {entry.name}: {_line(found)}", flush=True)


def _line(found: Doors) -> str:
    if found.status != "through":
        return f"{found.status}, {found.reason[:90]}"
    odd = [f"{door} {one.status}: {one.text[:160]}" for door, one in found.by_door.items() if one.status in FAULTS]
    held = sum(one.status == "ok" for one in found.by_door.values())
    return f"{held} of {len(found.by_door)} held" + "".join(f"\n    {line}" for line in odd)

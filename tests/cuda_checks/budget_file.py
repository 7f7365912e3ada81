"""A file of what forms of kernels in CUDA C++ cost, by name and compute capability: read, compared and written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtaccel.kernels._persistent.card import SHARED_BYTES, Card
from tests.cuda_checks.budgets import beyond
from tests.turns import DAY

Row = dict[str, Any]


@dataclass(frozen=True)
class BudgetFile:
    """cost: (name, capability) -> (what is written, what its code does that no form may), or None where there is no form. exact:
    what may not differ from what is written at all."""

    path: Path
    names: Collection[str]
    cost: Callable[[str, int], tuple[Row, list[str]] | None]
    exact: tuple[str, ...]

    def read(self) -> dict[str, dict[str, Row]]:
        found: dict[str, dict[str, Row]] = json.loads(self.path.read_text())
        return found

    def broken(self, name: str, capability: int, allowed: Row | None) -> list[str]:
        """What the code of a network does that it may not, one sentence each. allowed: what is written."""
        where, found = f"{name} on sm_{capability}", self.cost(name, capability)
        if found is None:
            return [] if allowed is None else [f"{where}: written, and has no form"]
        if allowed is None:
            return [f"{where}: not written"]
        row, said = found
        return [f"{where}: {text}" for text in (*said, *beyond(row, allowed, self.exact))]

    def todays(self, count: int) -> list[tuple[str, int]]:
        """So many names and architectures, others each day; `--check` compiles all."""
        places = [(name, c) for name in self.names for c in SHARED_BYTES]
        return [places[(count * DAY + i) % len(places)] for i in range(count)]

    def check_forms(self, declared: Callable[[str, Card], Any]) -> None:
        """What is written is what the forms are: rows for the cards that hold them, all weights in their places, no more
        registers than a thread may have. declared: (name, card) -> the form, with its config and kernel, or None."""
        written = self.read()
        assert set(written) == set(self.names)
        for name, rows in written.items():
            assert set(rows) == {str(c) for c in SHARED_BYTES if declared(name, Card(c)) is not None}
            for capability, row in rows.items():
                form = declared(name, Card(int(capability)))
                assert form is not None
                config = form.config
                assert (row["in_registers"], row["in_shared"]) == (config.kept_bytes, config.held * config.step_bytes)
                assert row["in_registers"] + row["in_shared"] == config.steps * config.step_bytes
                assert row["shared"] == form.kernel.shared_bytes <= SHARED_BYTES[int(capability)] << 10
                assert row["registers"] <= min(65536 // config.threads, 255)

    def main(self, check: bool) -> None:
        """Compares what every network costs on every architecture with what is written, or writes it."""
        places = [(name, c) for name in self.names for c in SHARED_BYTES]
        faults: list[str] = []
        if check:
            written = self.read()
            faults = [text for name, c in places for text in self.broken(name, c, written[name].get(str(c)))]
            sys.exit("\n".join(faults) or None)
        rows: dict[str, dict[str, Row]] = {name: {} for name in self.names}
        for name, c in places:
            if (found := self.cost(name, c)) is not None:
                rows[name][str(c)], wrong = found
                faults += [f"{name} on sm_{c}: {text}" for text in wrong]
        if faults:
            sys.exit("\n".join(faults))
        self.path.write_text(json.dumps(rows, indent=1) + "\n")

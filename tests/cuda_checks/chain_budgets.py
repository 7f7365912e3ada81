"""The budget file of the chain in CUDA C++: what its code costs and where its weights are, for networks and cards.

    chain_budgets.json: {"autoencoder int8": {"90": {"threads": 128, "registers": 254, ..., "made_of": "dp4a 896, ..."}}, ...}

    python tests/cuda_checks/chain_budgets.py [--check]

writes it with the installed NVRTC, or compares what every network costs on every architecture with what is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_spec import SYSTEM_FENCE
from rtaccel.kernels._persistent.card import SHARED_BYTES, Card
from rtaccel.kernels.mlp.cuda.kernel import DECLARED, declared
from tests.cuda_checks.budgets import FAMILIES, REQUIRED, beyond
from tests.support import kept

FILE = Path(__file__).with_name("chain_budgets.json")
Row = dict[str, Any]


def cost(name: str, capability: int) -> tuple[Row, list[str]]:
    """(what is written, what its code does that no form may)."""
    found = declared(name, Card(capability))
    assert not isinstance(found, str), found
    config, kernel = found
    code = kept.read(kept.cubin(kernel, capability).code, kernel.shared_bytes)
    made = ((family, code.count(pattern)) for family, pattern in FAMILIES.items())
    row = {
        "parts": config.parts, "threads": config.threads, "pollers": config.pollers, "lanes": list(config.lanes),
        "in_registers": sum(config.kept) * config.step_bytes, "in_shared": config.held * config.step_bytes,
        "shared": kernel.shared_bytes, "registers": code.registers, "instructions": code.total,
        "fences": code.count(SYSTEM_FENCE), "made_of": ", ".join(f"{f} {n}" for f, n in made if n),
    }  # fmt: skip
    wrong = [f"no {pattern}" for pattern in REQUIRED if not code.count(pattern)]
    spilt = (code.stack_bytes, code.local_bytes, code.spills)
    wrong += [f"stack, local bytes, spills {spilt}"] if any(spilt) else []
    # Of the warp that takes a message, and in another block of the thread that takes its header.
    wrong += [] if row["fences"] == 1 + (config.parts > 1) else [f"{row['fences']} fences"]
    wrong += ["loads of an exchange"] if code.count(r"LDG\..*64\.STRONG\.GPU") else []
    return row, wrong


def broken(name: str, capability: int, allowed: Row | None) -> list[str]:
    """What the code of a network does that it may not, one sentence each. allowed: what is written."""
    if isinstance(declared(name, Card(capability)), str):
        return [] if allowed is None else [f"{name} on sm_{capability}: written, and has no form"]
    row, said = cost(name, capability)
    if allowed is None:
        return [f"{name} on sm_{capability}: not written"]
    exact = ("parts", "threads", "pollers", "lanes", "in_registers", "in_shared", "shared", "fences")
    said += beyond(row, allowed, exact)
    return [f"{name} on sm_{capability}: {text}" for text in said]


def read() -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = json.loads(FILE.read_text())
    return found


def main(check: bool) -> None:
    places = [(name, c) for name in DECLARED for c in SHARED_BYTES]
    if check:
        written = read()
        faults = [text for name, c in places for text in broken(name, c, written[name].get(str(c)))]
        sys.exit("\n".join(faults) or None)
    rows: dict[str, dict[str, Row]] = {name: {} for name in DECLARED}
    faults = []
    for name, c in places:
        if not isinstance(declared(name, Card(c)), str):
            rows[name][str(c)], wrong = cost(name, c)
            faults += [f"{name} on sm_{c}: {text}" for text in wrong]
    if faults:
        sys.exit("\n".join(faults))
    FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])

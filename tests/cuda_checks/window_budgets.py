"""The budget file of windows in CUDA C++: what their code costs and where their weights are, for networks and cards.

    window_budgets.json: {"lstm A int8": {"90": {"programs": 2, "registers": 188, ..., "made_of": "dp4a 128, ..."}, ...}, ...}

    python tests/cuda_checks/window_budgets.py [--check]

writes it with the installed NVRTC, or compares what every network costs on every architecture with what is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE
from rtaccel.kernels._persistent.card import SHARED_BYTES, Card
from rtaccel.kernels.recurrent.cuda.window import DECLARED, Window, declared
from tests.cuda_checks.budgets import CLUSTER_BARRIER, CLUSTER_STORE, FAMILIES, beyond
from tests.support import kept

FILE = Path(__file__).with_name("window_budgets.json")
Row = dict[str, Any]


def cost(form: Window, capability: int) -> tuple[Row, list[str]]:
    """(what is written, what its code does that no form may)."""
    config, kernel = form.config, form.kernel
    code = kept.read(kept.cubin(kernel, capability).code, kernel.shared_bytes)
    made = ((family, code.count(pattern)) for family, pattern in FAMILIES.items())
    row = {
        "programs": config.parts, "threads": config.threads, "in_registers": config.kept_bytes,
        "in_shared": config.held * config.step_bytes, "shared": kernel.shared_bytes, "registers": code.registers,
        "instructions": code.total, "made_of": ", ".join(f"{f} {n}" for f, n in made if n),
    }  # fmt: skip
    wrong = [f"no {pattern}" for pattern in (GPU_DP4A, r"LDS\.128") if not code.count(pattern)]
    spilt = (code.stack_bytes, code.local_bytes, code.spills)
    wrong += [f"stack, local bytes, spills {spilt}"] if any(spilt) else []
    if (bool(code.count(CLUSTER_STORE)), code.count(CLUSTER_BARRIER)) != (config.cluster, 2 * config.cluster):
        wrong.append("stores and two barriers of a cluster where there is one, and only there")
    wrong += [f"{p}: it waits for no host" for p in (SYSTEM_LOAD, SYSTEM_STORE, SYSTEM_FENCE) if code.count(p)]
    wrong += ["loads of an exchange by L2"] if code.count(r"LDG\..*64\.STRONG\.GPU") else []
    return row, wrong


def broken(name: str, capability: int, allowed: Row | None) -> list[str]:
    """What the code of a network does that it may not, one sentence each. allowed: what is written."""
    form = declared(name, Card(capability))
    if form is None:
        return [] if allowed is None else [f"{name} on sm_{capability}: written, and has no form"]
    if allowed is None:
        return [f"{name} on sm_{capability}: not written"]
    row, said = cost(form, capability)
    said += beyond(row, allowed, ("programs", "threads", "in_registers", "in_shared", "shared"))
    return [f"{name} on sm_{capability}: {text}" for text in said]


def read() -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = json.loads(FILE.read_text())
    return found


def main(check: bool) -> None:
    places = [(name, c) for name in DECLARED for c in SHARED_BYTES]
    if check:
        written = read()
        sys.exit("\n".join(text for name, c in places for text in broken(name, c, written[name].get(str(c)))) or None)
    rows: dict[str, dict[str, Row]] = {name: {} for name in DECLARED}
    faults = []
    for name, c in places:
        if (form := declared(name, Card(c))) is not None:
            rows[name][str(c)], wrong = cost(form, c)
            faults += [f"{name} on sm_{c}: {text}" for text in wrong]
    if faults:
        sys.exit("\n".join(faults))
    FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])

"""The budget file of the recurrent kernel in CUDA C++: what its code costs and where its weights are, for networks and cards.

    budgets.json: {"lstm A int8": {"80": {"programs": 1, "registers": 254, ..., "made_of": "dp4a 896, ..."}, ...}, ...}

    python tests/cuda_checks/budgets.py [--check]

writes it with the installed NVRTC, or compares what every network costs on every architecture with what is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_aot import Footprint
from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE
from rtaccel.kernels._persistent.card import SHARED_BYTES, Card
from rtaccel.kernels.recurrent.cuda.kernel import FORMS, declared
from tests.support import kept

FILE = Path(__file__).with_name("budgets.json")

CLUSTER_STORE, CLUSTER_BARRIER = r"ST\.E\.64\.STRONG\.GPU", r"UCGABAR_WAIT"

FAMILIES = {
    "dp4a": GPU_DP4A, "16-byte loads of shared memory": r"LDS\.128", "16-byte loads of L2": r"LDG\..*128",
    "warp sums": "CREDUX|REDUX|SHFL", "system loads": r"LDG\..*64\.STRONG\.SYS", "card loads": r"LDG\..*64\.STRONG\.GPU",
    "barriers": r"BAR\b", "cluster stores": CLUSTER_STORE, "cluster barriers": CLUSTER_BARRIER,
}  # fmt: skip
REQUIRED = (GPU_DP4A, r"LDS\.128", SYSTEM_LOAD, SYSTEM_STORE)
"""In the code of every form."""


def cost(name: str, capability: int) -> tuple[dict[str, Any], Footprint]:
    form, kernel = declared(name, Card(capability))
    found = kept.read(kept.cubin(kernel, capability).code, kernel.shared_bytes)
    made = ((family, found.count(pattern)) for family, pattern in FAMILIES.items())
    return {
        "programs": form.parts, "threads": form.threads, "pollers": form.pollers, "in_registers": form.kept_bytes,
        "in_shared": form.held * form.step_bytes, "read_again": form.reread_bytes, "shared": kernel.shared_bytes,
        "registers": found.registers, "instructions": found.total, "fences": found.count(SYSTEM_FENCE),
        "made_of": ", ".join(f"{f} {n}" for f, n in made if n),
    }, found  # fmt: skip


def broken(
    name: str, capability: int, allowed: dict[str, Any] | None, of: tuple[dict[str, Any], Footprint]
) -> list[str]:
    """What the code of a network does that it may not, one sentence each. allowed: what is written; None to look at the rest."""
    row, found = of
    form, kernel = declared(name, Card(capability))
    # Of messages with other weights alone: one where they are read, and in a grid one before they are passed on, which is the
    # same one where a warp that polls does both. A loop over words that is unrolled has it twice.
    passed_on = form.parts > 1 and not form.mapped
    fences, fewest = found.count(SYSTEM_FENCE), (2 if form.pollers else 3) if passed_on else 1
    said = [] if fewest <= fences <= 2 * fewest else [f"{fences} fences"]
    said += [f"no {pattern}" for pattern in REQUIRED if not found.count(pattern)]
    spilt = (found.stack_bytes, found.local_bytes, found.spills)
    said += [f"stack, local bytes, spills {spilt}"] if any(spilt) else []
    if bool(found.count(r"LDG\..*64\.STRONG\.GPU")) != kernel.cooperative:
        said.append("loads of the exchange where there is one, and only there")
    if (bool(found.count(CLUSTER_STORE)), found.count(CLUSTER_BARRIER)) != (form.cluster, 2 * form.cluster):
        said.append("stores and two barriers of a cluster where there is one, and only there")
    if allowed is not None:
        exact = ("programs", "threads", "pollers", "in_registers", "in_shared", "read_again", "shared", "fences")
        said += beyond(row, allowed, exact)
    return [f"{name} on sm_{capability}: {text}" for text in said]


def beyond(row: dict[str, Any], allowed: dict[str, Any], exact: tuple[str, ...]) -> list[str]:
    """What code costs that is not as written, or more than a little above it. exact: what may not differ at all."""
    said = [f"{key} {row[key]}, written {allowed[key]}" for key in exact if row[key] != allowed[key]]
    if row["registers"] > min(allowed["registers"] + 8, 255):
        said.append(f"{row['registers']} registers, written {allowed['registers']}")
    if row["instructions"] > allowed["instructions"] * 21 // 20:
        said.append(f"{row['instructions']} instructions, written {allowed['instructions']}")
    return said


def read() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
    return found


def main(check: bool) -> None:
    written = read() if check else {}
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    faults = []
    for name in FORMS:
        for capability in SHARED_BYTES:
            of = cost(name, capability)
            rows.setdefault(name, {})[str(capability)] = of[0]
            faults += broken(name, capability, written[name][str(capability)] if check else None, of)
    if faults:
        sys.exit("\n".join(faults))
    if not check:
        FILE.write_text(json.dumps(rows, indent=1) + "\n")
    print(sum(map(len, rows.values())), "forms are within their budgets" if check else "forms written")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])

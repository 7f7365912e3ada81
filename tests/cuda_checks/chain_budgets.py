"""The budget file of the chain in CUDA C++: what its code costs and where its weights are, for networks and cards.

    chain_budgets.json: {"autoencoder int8": {"90": {"threads": 128, "registers": 254, ..., "made_of": "dp4a 896, ..."}}, ...}

    python tests/cuda_checks/chain_budgets.py [--check]

writes it with the installed NVRTC, or compares what every network costs on every architecture with what is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_spec import SYSTEM_FENCE
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.mlp.cuda.kernel import DECLARED, declared
from tests.cuda_checks.budget_file import BudgetFile, Row
from tests.cuda_checks.budgets import FAMILIES, REQUIRED
from tests.support import kept


def cost(name: str, capability: int) -> tuple[Row, list[str]] | None:
    """(what is written, what its code does that no form may)."""
    found = declared(name, Card(capability))
    if isinstance(found, str):
        return None
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


EXACT = ("parts", "threads", "pollers", "lanes", "in_registers", "in_shared", "shared", "fences")
BUDGETS = BudgetFile(Path(__file__).with_name("chain_budgets.json"), DECLARED, cost, EXACT)


if __name__ == "__main__":
    BUDGETS.main("--check" in sys.argv[1:])

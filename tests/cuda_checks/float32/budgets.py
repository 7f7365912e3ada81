"""The budget file of float32 layers in CUDA C++: what their code costs and where their weights are, for networks and cards.

    budgets.json: {"lstm 100": {"90": {"programs": 2, "registers": 168, ..., "made_of": "ffma 113, ..."}, ...}, ...}

    python tests/cuda_checks/float32/budgets.py [--check]

writes it with the installed NVRTC, or compares what every layer costs on every architecture with what is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from rtaccel.kernels._gpu.triton_spec import SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.float32.layer import DECLARED, declared
from tests.cuda_checks.budget_file import BudgetFile, Row
from tests.cuda_checks.budgets import CLUSTER_BARRIER, CLUSTER_STORE, FAMILIES
from tests.support import kept

FMA = r"\bFFMA"  # four in a step of a thread, and the cell's


def cost(name: str, capability: int) -> tuple[Row, list[str]] | None:
    """(what is written, what its code does that no form may)."""
    form = declared(name, Card(capability))
    if form is None:
        return None
    config, kernel = form.config, form.kernel
    code = kept.read(kept.cubin(kernel, capability).code, kernel.shared_bytes)
    made = ((family, code.count(pattern)) for family, pattern in (("ffma", FMA), *FAMILIES.items()))
    row = {
        "programs": config.parts, "threads": config.threads, "in_registers": config.kept * config.step_bytes,
        "in_shared": config.held * config.step_bytes, "shared": kernel.shared_bytes, "registers": code.registers,
        "instructions": code.total, "made_of": ", ".join(f"{f} {n}" for f, n in made if n),
    }  # fmt: skip
    wrong = []
    products = code.count(FMA) - 4 * config.steps
    if not 0 <= products <= 4:
        wrong.append(f"{code.count(FMA)} products for {4 * config.steps} weights of a thread")
    spilt = (code.stack_bytes, code.local_bytes, code.spills)
    wrong += [f"stack, local bytes, spills {spilt}"] if any(spilt) else []
    if (bool(code.count(CLUSTER_STORE)), code.count(CLUSTER_BARRIER)) != (config.parts > 1, 2 * (config.parts > 1)):
        wrong.append("stores and two barriers of a cluster where there is one, and only there")
    wrong += [f"{p}: it waits for no host" for p in (SYSTEM_LOAD, SYSTEM_STORE, SYSTEM_FENCE) if code.count(p)]
    return row, wrong


EXACT = ("programs", "threads", "in_registers", "in_shared", "shared")
BUDGETS = BudgetFile(Path(__file__).with_name("budgets.json"), DECLARED, cost, EXACT)


if __name__ == "__main__":
    BUDGETS.main("--check" in sys.argv[1:])

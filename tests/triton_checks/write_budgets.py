"""Writes what every kernel costs with the installed triton into budgets.json, and which instructions it is made of into
instructions.json; other versions in them are left as they are. tests/triton_checks/write_page.py makes a page of both.

    python tests/triton_checks/write_budgets.py [--check] [WORD ...]

With --check it writes nothing, and compares what every kernel costs on every architecture with what is written. Words: the
kernels with one of them in their names alone; other rows are left as they are.
Refuses where code has stack, local memory or spills, or lacks an instruction that it must have. The difference to what was
there before is for whoever commits it to judge.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rtaccel.kernels._gpu.triton_aot import ARCHITECTURES, Allowed, compile_for, specializations, violations
from tests.triton_checks import budgets


def main(check: bool, words: list[str]) -> None:
    rows: dict[str, dict[str, list[int]]] = {}
    families: dict[str, dict[str, str]] = {}
    broken: list[str] = []
    chosen = [s for s in specializations() if not words or any(word in s.name for word in words)]
    for spec in chosen:
        for capability in ARCHITECTURES:
            if capability < spec.oldest or not budgets.known(capability):
                continue
            f = compile_for(spec, capability)
            numbers = [f.registers, f.shared_bytes, f.barriers, f.total]
            rows.setdefault(spec.name, {})[str(capability)] = numbers
            families.setdefault(spec.name, {})[str(capability)] = budgets.families(f)
            held_to = budgets.allowed(spec.name, capability) if check else Allowed(*numbers)
            broken += violations(spec, capability, f, held_to)
    if broken:
        sys.exit("\n".join(broken))
    if check:
        print(sum(map(len, rows.values())), "forms are within the budget file for triton", budgets.VERSION)
        return
    budgets.write(budgets.FILE, rows, keep=bool(words))
    budgets.write(budgets.INSTRUCTIONS, families, keep=bool(words))
    print(sum(map(len, rows.values())), "forms written for triton", budgets.VERSION)


if __name__ == "__main__":
    main("--check" in sys.argv[1:], [word for word in sys.argv[1:] if word != "--check"])

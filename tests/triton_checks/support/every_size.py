"""Every size M 0-8, N 0-40, K 0-130 through every Triton linear kernel, in the interpreter: sums exact to the last bit.

    TRITON_INTERPRET=1 python tests/triton_checks/support/every_size.py [PART PARTS]

Not a test by name: 70,000 launches take the interpreter minutes. PART of PARTS takes every PARTS-th K, for several
processes side by side. tests/gpu/test_triton_interpreter.py runs a part; all of them together are the whole grid.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from rtaccel.backends import require
from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, QParams, Stage, Value

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.triton_checks.support.quick_interpreter import quicken


def check(k: int, generator: torch.Generator) -> int:
    """All M and N for one K. Returns the launches that were compared."""
    x = torch.randint(-128, 128, (8, k), dtype=torch.int8, generator=generator)
    weight = torch.randint(-127, 128, (40, k), dtype=torch.int8, generator=generator)
    zero_point = int(torch.randint(-128, 128, (1,), generator=generator))
    sums = ((x.long() - zero_point) @ weight.long().T).float()  # exact: below 2^24
    compared = 0
    for n in range(41):
        stage = Stage(
            "linear",
            "size",
            (Value("x", k, "int8", QParams(1.0, zero_point)),),
            (Value("y", n),),
            {"weight": weight[:n].clone(), "weight_scale": torch.ones(n)},
        )
        for impl in impls("triton", "linear"):
            prepared = None
            for m in range(9):
                problem = Problem.of(stage, m)
                if impl.supports(problem) is not None:
                    continue
                prepared = prepared or impl.prepare(stage, problem)
                (y,) = prepared(x[:m])
                if not torch.equal(y, sums[:m, :n]):
                    sys.exit(f"{impl.name} differs at M = {m}, N = {n}, K = {k}, zero point {zero_point}")
                compared += 1
    return compared


def main(part: int, parts: int) -> None:
    require("triton")
    quicken()
    generator = torch.Generator()
    seed = generator.seed()
    print(f"seed {seed}, part {part} of {parts}")
    print(sum(check(k, generator) for k in range(part, 131, parts)), "compared, all exact")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3] or ("0", "1")))

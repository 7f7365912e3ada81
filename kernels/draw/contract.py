"""Draw: y[m] = numbers drawn at random, each in [0, 1), float32 [M, steps, width].

Of x only the number of samples is read. attrs["seed"]: of all numbers, 0 to 2^63 - 1. attrs["place"]: another sequence for each,
0 to 2^31 - 1. A plan counts the samples that it gave: sample n of the sequence has the same numbers on every backend. A plan
begins with sample 0, and each call goes on behind the last one.

Numbers are those of Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Block b of a sample has
four of them, by the counter (n * blocks + b, place) and the key `seed`: the upper 24 of each 32 bits, divided by 2^24.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role

ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)
"""What multiplies two words of a counter in each round, and what is added to the two of the key."""

MAX_PLACES, MAX_SEEDS, MAX_NUMBERS = 1 << 31, 1 << 63, 1 << 31
WORD = 0xFFFFFFFF


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Four words, int64 from 0 to 2^32 - 1, of four such words and a key of two."""
    a, b, c, d = counter
    first, second = key
    for _ in range(ROUNDS):
        left, right = a * FACTORS[0], c * FACTORS[1]  # of the product all 64 bits are right, whatever its sign
        a, b, c, d = (
            (right >> 32 & WORD) ^ b ^ first, right & WORD, (left >> 32 & WORD) ^ d ^ second, left & WORD,
        )  # fmt: skip
        first, second = (first + STEPS[0]) & WORD, (second + STEPS[1]) & WORD
    return [a, b, c, d]


def checked(stage: Stage) -> tuple[int, int]:
    """(seed, place)"""
    seed, place, y = stage.attrs["seed"], stage.attrs["place"], stage.outputs[0]
    if not 0 <= seed < MAX_SEEDS or not 0 <= place < MAX_PLACES:
        raise FormatError(
            "draw", f"seed {seed}, place {place}", "a seed below 2^63, a place below 2^31", "Correct the stage."
        )
    if len(stage.inputs) != 1 or y.dtype != "float32" or not 0 < y.steps * y.width < MAX_NUMBERS:
        raise ShapeError(
            "draw", f"{len(stage.inputs)} inputs, {y.dtype}{list(y.shape)}", "one input, and float32 with elements",
            "Correct the stage.",
        )  # fmt: skip
    return seed, place


def lower(stage: Stage) -> Mapping[str, Any]:
    seed, place = checked(stage)
    return {"seed": seed, "place": place}


def numbers(stage: Stage, first: int, samples: int) -> Tensor:
    """float32 [samples, steps, width] of the samples from number `first` on."""
    seed, place = checked(stage)
    y = stage.outputs[0]
    elements = y.steps * y.width
    blocks = -(-elements // 4)
    block = torch.arange(first * blocks, (first + samples) * blocks, dtype=torch.int64)
    counter = [block & WORD, block >> 32 & WORD, torch.full_like(block, place), torch.zeros_like(block)]
    words = torch.stack(philox(counter, (seed & WORD, seed >> 32)), 1)
    drawn = (words >> 8).to(torch.float32) * 2.0**-24
    return drawn.view(samples, 4 * blocks)[:, :elements].reshape(samples, *y.shape)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    """What a plan gives at first."""
    return (numbers(stage, 0, x.shape[0]).to(x.device),)


def make_stage(seed: int, place: int, steps: int, width: int, of: int = 3) -> Stage:
    y = Value("y", width, steps=steps)
    return Stage("draw", "case", (Value("x", of),), (y,), {}, {"seed": seed, "place": place})


def cases() -> Iterator[Case]:
    for m, steps, width, seed, place in (
        (1, 1, 1, 0, 0),
        (3, 1, 4, 7, 1),
        (2, 5, 13, 67280421310721, 2),
        (5, 1, 131, (1 << 63) - 1, (1 << 31) - 1),
        (1, 3, 700, 1 << 32, 5),
    ):
        stage = make_stage(seed, place, steps, width)

        def make(seed: int, m: int = m) -> tuple[Tensor, ...]:
            return (torch.randn(m, 3, generator=torch.Generator().manual_seed(seed)),)

        yield Case(f"M{m}-{steps}x{width}-seed{seed}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.rows * problem.out_steps[0] * problem.out_widths[0]
    return Cost(bytes=4 * elements, flops=10 * elements)


OPERATOR = register_operator(
    Operator(
        name="draw",
        axes={"x": ("M", "any"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        role=Role.DRAW,
    )
)

"""The assembly that makes bfloat16 of int4 and int8 weights, run line by line on the CPU, for every element."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from rtaccel.kernels._gpu import triton_bfloat16

WORD = 0xFFFFFFFF


def halves(words: Tensor) -> Tensor:
    """float32 [2, n] of the two bfloat16 numbers of each word [n], the lower half first."""
    parts = torch.stack((words & 0xFFFF, words >> 16)) << 16
    return torch.where(parts >= 2**31, parts - 2**32, parts).to(torch.int32).view(torch.float32)


def word_of(numbers: Tensor) -> Tensor:
    """The opposite, each number rounded."""
    bits = numbers.bfloat16().view(torch.int16).to(torch.int64) & 0xFFFF
    return bits[0] | bits[1] << 16


def run(assembly: str, word: Tensor) -> Tensor:
    """$0 of $1, int64 [n] of 32 bits. It knows the instructions that are used, as PTX defines them, subnormal numbers too."""
    registers: dict[str, Tensor] = {"$1": word}

    def value(name: str) -> Tensor:
        return registers[name] if name in registers else torch.full_like(word, int(name, 0))

    for line in assembly.strip("{} \n").split(";"):
        name, _, rest = line.strip().partition(" ")
        if not name or name == ".reg":
            continue
        to, *given = [part.strip() for part in rest.split(",")]
        a = [value(part) for part in given]
        if name == "mov.b32":
            found = a[0]
        elif name == "shr.u32":
            found = a[0] >> a[1]
        elif name == "and.b32":
            found = a[0] & a[1]
        elif name == "prmt.b32":
            both = a[0] | a[1] << 32
            found = sum((both >> 8 * (int(given[2], 0) >> 4 * i & 7) & 255) << 8 * i for i in range(4))
        elif name == "lop3.b32":
            assert int(given[3], 0) == (0xF0 & 0xCC) | 0xAA
            found = a[0] & a[1] | a[2]
        elif name == "fma.rn.bf16x2":
            # A factor 2^127 reaches what is subnormal; what comes out is a number like others.
            exact = halves(a[0]).double() * halves(a[1]).double() + halves(a[2]).double()
            assert torch.equal(exact, exact.bfloat16().double())  # nothing is rounded
            found = word_of(exact.float())
        else:
            raise AssertionError(name)
        registers[to] = found & WORD
    return registers["$0"]


CASES = [(f"INT4_{j}", 4, j) for j in range(4)] + [(f"INT8_{j}", 8, j) for j in range(2)]


@pytest.mark.parametrize(("name", "bits", "j"), CASES)
def test_every_element_beside_others(name: str, bits: int, j: int) -> None:
    """All 65,536 elements, in either half of a word, beside an element that has no bits, all of them, or any."""
    text = str(getattr(triton_bfloat16, name).value)
    element = torch.arange(1 << 16)
    number = element >> bits * j & (1 << bits) - 1
    want = (number - 8).double() / 4 if bits == 4 else (number - 128).double() / 64
    for other in (torch.zeros_like(element), torch.full_like(element, 0xFFFF), torch.randperm(1 << 16)):
        assert torch.equal(halves(run(text, element | other << 16))[0].double(), want)
        assert torch.equal(halves(run(text, other | element << 16))[1].double(), want)

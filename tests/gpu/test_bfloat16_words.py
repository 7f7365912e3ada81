"""The assembly that makes bfloat16 of int4 and int8 weights, and three of a float32, run line by line on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from rtaccel.kernels._gpu import triton_bfloat16, triton_thirds

WORD = 0xFFFFFFFF


def halves(words: Tensor) -> Tensor:
    """float32 [2, n] of the two bfloat16 numbers of each word [n], the lower half first."""
    parts = torch.stack((words & 0xFFFF, words >> 16)) << 16
    return torch.where(parts >= 2**31, parts - 2**32, parts).to(torch.int32).view(torch.float32)


def word_of(numbers: Tensor) -> Tensor:
    """The opposite, each number rounded."""
    bits = numbers.bfloat16().view(torch.int16).to(torch.int64) & 0xFFFF
    return bits[0] | bits[1] << 16


def float_of(bits: Tensor) -> Tensor:
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)


def bits_of(numbers: Tensor) -> Tensor:
    return numbers.view(torch.int32).to(torch.int64) & WORD


def cut(bits: Tensor) -> Tensor:
    """The bits of a float32 -> those of the bfloat16 towards zero; of a NaN 0x7FFF."""
    return torch.where(float_of(bits).isnan(), 0x7FFF, bits >> 16)


def run(assembly: str, *given: Tensor, first: int = 1) -> dict[str, Tensor]:
    """The registers at the end, int64 [n] of 32 bits, from those given, $first and on. It knows the instructions that are used,
    as PTX defines them, subnormal numbers too."""
    registers: dict[str, Tensor] = {f"${first + i}": word for i, word in enumerate(given)}

    def value(name: str) -> Tensor:
        return registers[name] if name in registers else torch.full_like(given[0], int(name, 0))

    for line in assembly.strip("{} \n").split(";"):
        name, _, rest = line.strip().partition(" ")
        if not name or name == ".reg":
            continue
        to, *text = [part.strip(" {}") for part in rest.split(",")]
        if rest.startswith("{"):  # two halves of a word
            upper, source = text
            registers[to], registers[upper] = value(source) & 0xFFFF, value(source) >> 16
            continue
        a = [value(part) for part in text]
        if name == "mov.b32":
            found = a[0]
        elif name == "shr.u32":
            found = a[0] >> a[1]
        elif name == "and.b32":
            found = a[0] & a[1]
        elif name == "sub.f32":
            found = bits_of(float_of(a[0]) - float_of(a[1]))
        elif name == "cvt.rz.bf16x2.f32":
            found = cut(a[0]) << 16 | cut(a[1])
        elif name == "prmt.b32":
            both, found = a[0] | a[1] << 32, torch.zeros_like(a[0])
            for i in range(4):
                found |= (both >> 8 * (int(text[2], 0) >> 4 * i & 7) & 255) << 8 * i
        elif name == "lop3.b32":
            assert int(text[3], 0) == (0xF0 & 0xCC) | 0xAA
            found = a[0] & a[1] | a[2]
        elif name == "fma.rn.bf16x2":
            # A factor 2^127 reaches what is subnormal; what comes out is a number like others.
            exact = halves(a[0]).double() * halves(a[1]).double() + halves(a[2]).double()
            assert torch.equal(exact, exact.bfloat16().double())  # nothing is rounded
            found = word_of(exact.float())
        else:
            raise AssertionError(name)
        registers[to] = found & WORD
    return registers


CASES = [(f"INT4_{j}", 4, j) for j in range(4)] + [(f"INT8_{j}", 8, j) for j in range(2)]


@pytest.mark.parametrize(("name", "bits", "j"), CASES)
def test_every_element_beside_others(name: str, bits: int, j: int) -> None:
    """All 65,536 elements, in either half of a word, beside an element that has no bits, all of them, or any."""
    text = str(getattr(triton_bfloat16, name).value)
    element = torch.arange(1 << 16)
    number = element >> bits * j & (1 << bits) - 1
    want = (number - 8).double() / 4 if bits == 4 else (number - 128).double() / 64
    for other in (torch.zeros_like(element), torch.full_like(element, 0xFFFF), torch.randperm(1 << 16)):
        assert torch.equal(halves(run(text, element | other << 16)["$0"])[0].double(), want)
        assert torch.equal(halves(run(text, other | element << 16)["$0"])[1].double(), want)


def test_three_bfloat16_of_a_float32() -> None:
    """They add up to it, whatever its size; the first of what is not finite is it, a NaN of any bits too."""
    x = torch.randn(1 << 16) * 2.0 ** torch.randint(-100, 120, (1 << 16,))
    x[:6] = torch.tensor([3.4028234e38, 0.0, -0.0, 2.0**-126, float("inf"), float("-inf")])
    x[6:8] = torch.tensor([0x7F800001, -0x00000001], dtype=torch.int32).view(torch.float32)
    other = x.roll(1)
    r = run(str(triton_thirds.PAIR.value), bits_of(x), bits_of(other), first=6)
    for given, names in ((x, ("$0", "$2", "$4")), (other, ("$1", "$3", "$5"))):
        first, second, third = (halves(r[name])[0] for name in names)
        finite = given.isfinite()
        assert torch.equal(first[finite] + (second[finite] + third[finite]), given[finite])
        assert torch.equal(first[~finite].isnan(), given[~finite].isnan())
        assert torch.equal(first[given.isinf()], given[given.isinf()])
        assert (first.abs() <= given.abs())[finite].all()

"""What the sparse Triton kernels read: each byte of the weights once. And their assembly, on a card, as its twin computes.

As check_kernels.py, started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core.stage import Problem
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from rtaccel.kernels.sparse_linear.triton.permute import pick_bytes
from rtaccel.kernels.sparse_linear.triton.rows import stored_block
from rtaccel.plan import sparse_gpu
from tests.triton_checks.support.sparse_stages import DEVICE, taking

require("triton")

LEAST = 2048
"""Bytes above which an operand is part of the packed weights, here: what has a number for each output is smaller."""


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize(
    ("layout", "kind"), [*((layout, "static") for layout in contract.LAYOUTS), ("2:4", "w4a8-static")]
)
def test_each_byte_of_the_weights_is_read_once(
    layout: str, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the addresses that the kernels load: all of what is stored, nothing twice, and less than dense weights are."""
    from triton.runtime.interpreter import InterpreterBuilder

    k, n = 512, 64
    stage = contract.make_stage(k, n, kind, layout, 0.25)
    if layout == "window":  # single weights would leave no block of 16 x 16 out
        stage = contract.sparse_stage(contract.dense_stage(contract.make_stage(k, n, kind, "blocks", 0.25)), layout)
    load, to = InterpreterBuilder.create_masked_load, Tensor.to
    for impl in taking(stage, rows):
        held: list[Tensor] = []

        def placed(t: Tensor, *where: Any, **options: Any) -> Tensor:
            if where == (DEVICE,):
                held.append(t)  # noqa: B023
            return to(t, *where, **options)

        monkeypatch.setattr(Tensor, "to", placed)
        call = impl.prepare(stage, Problem.of(stage, rows, DEVICE))
        monkeypatch.setattr(Tensor, "to", to)
        packed = [t for t in held if t.numel() * t.element_size() > LEAST]
        counts = [torch.zeros(t.numel() * t.element_size(), dtype=torch.int32) for t in packed]

        def counted(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
            read = torch.from_numpy(ptrs.data.astype("int64")[mask.data]).unique()
            width = ptrs.get_element_ty().primitive_bitwidth // 8
            for t, count in zip(packed, counts):  # noqa: B023
                at = read - t.data_ptr()
                at = at[(at >= 0) & (at < count.numel())]
                for byte in range(width):
                    count[at + byte] += 1
            return load(self, ptrs, mask, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(InterpreterBuilder, "create_masked_load", counted)
            call(linear.make_inputs(stage, rows, 3)[0])
        stored = "blocks" if impl.name == "triton_dot" else layout
        dense, block = contract.dense_stage(stage), stored_block(stage)
        expected = sparse_gpu._packed(dense, rows, stored, block).bytes
        assert max(int(count.max()) for count in counts) == 1, impl.name
        whole = all(bool((count == 1).all()) for count in counts)
        assert whole or impl.name == "triton_semi_dot", impl.name  # its steps are padded
        size = sum(count.numel() for count in counts)
        assert size <= expected <= n * k // (2 if kind == "w4a8-static" else 1), impl.name


@triton.jit
def twins_kernel(a_ptr, b_ptr, s_ptr, y_ptr, ASM: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, s = tl.load(a_ptr + at), tl.load(b_ptr + at), tl.load(s_ptr + at)
    tl.store(y_ptr + at, pick_bytes(a, b, s, ASM))


def test_the_assembly_picks_as_its_twin() -> None:
    """Every selector that picks among eight bytes."""
    s = torch.arange(8**4, device=DEVICE)
    s = ((s & 7) | (s >> 3 & 7) << 4 | (s >> 6 & 7) << 8 | (s >> 9 & 7) << 12).int()
    a, b = (torch.randint(-(2**31), 2**31 - 1, s.shape, dtype=torch.int32, device=DEVICE) for _ in range(2))
    found = []
    for asm in (True, False):
        y = torch.zeros_like(s)
        twins_kernel[(s.numel() // 256,)](a, b, s, y, ASM=asm, BLOCK=256)
        found.append(y)
    assert torch.equal(*found)

"""A kernel gets other weights in the memory that it reads, and computes what one prepared from those weights computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_streams import NO_ORDER
from rtaccel.core.errors import RtaccelError
from rtaccel.core.registry import Impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.runtime.gpu.exchange import Exchange


def others(stage: Stage) -> Stage:
    """The same stage with floats half as large, and int8 weights of the other sign."""

    def other(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return (tensor.double() / 2).to(tensor.dtype)  # exact in every format
        return torch.where(tensor == -128, tensor, -tensor) if tensor.dtype == torch.int8 else tensor.clone()

    return replace(stage, tensors={name: other(tensor) for name, tensor in stage.tensors.items()})


def same(got: Any, want: Any) -> bool:
    return all(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in zip(got, want, strict=True))


def exchanged(impl: Impl, stage: Stage, inputs: tuple[Tensor, ...], device: str = "cpu") -> str:
    """ "exchanged", "nothing" where there is nothing to exchange, or why it was refused."""
    problem = Problem.of(stage, inputs[0].shape[0], device)
    if impl.supports(problem) is not None or not stage.tensors:
        return "nothing"
    new = others(stage)
    # From copies: a kernel may read the tensors of its stage where they lie.
    running, fresh, wanted = (
        impl.prepare(replace(s, tensors={k: v.clone() for k, v in s.tensors.items()}), problem)
        for s in (stage, new, new)
    )
    before, after = running(*inputs), wanted(*inputs)
    before = tuple(t.clone() for t in before)
    if not same(running(*inputs), before):
        return "nothing"  # it counts its calls, as a stream does
    try:
        exchange = Exchange(running, fresh)
    except RtaccelError as error:
        assert same(running(*inputs), before)
        return str(error)
    exchange.flip(NO_ORDER)
    assert same(running(*inputs), after)
    assert same(fresh(*inputs), before)
    exchange.flip(NO_ORDER)
    assert same(running(*inputs), before)
    return "exchanged" if exchange.bytes else "nothing"

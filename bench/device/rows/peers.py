"""What else a user of torch could run: torch's own ways in half precision, and torchao and gemlite where they are installed."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Call = Callable[[], object]
Make = Callable[[], tuple[Call, "Call | None"]]
"""Gives (the call as a user makes it, one that a CUDA graph can hold or None)."""

QUICK = ("torch eager fp16", "torch CUDA graph fp16")
"""Titles of what needs no compiler."""

SLOW = (
    "torch.compile reduce-overhead fp16", "torchao int8 weight-only, compiled, CUDA graph",
    "torchao int8 dynamic, compiled, CUDA graph", "gemlite A8W8 int8 dynamic, CUDA graph",
)  # fmt: skip

FLOAT32 = "torch CUDA graph float32"
"""Beside what we compute in float32."""


def plain_graph(model: Callable[..., object], x: Tensor) -> Call:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            model(x)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        model(x)
    return graph.replay


def _as_graph(model: Callable[..., object], x: Tensor) -> tuple[Call, Call]:
    return plain_graph(model, x), lambda: model(x)


def torch_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Make]]:
    half, given = copy.deepcopy(model).half().cuda(), x.half()
    yield QUICK[0], lambda: (lambda: half(given), lambda: half(given))
    yield QUICK[1], lambda: _as_graph(half, given)

    def compiled() -> tuple[Call, None]:
        made = torch.compile(half, mode="reduce-overhead")
        return (lambda: made(given)), None

    yield SLOW[0], compiled
    plain = copy.deepcopy(model).cuda()
    yield FLOAT32, lambda: _as_graph(plain, x)


def torchao_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Make]]:
    if importlib.util.find_spec("torchao") is None:
        return
    from torchao import quantization as ao

    given = x.bfloat16()
    for title, config in (
        (SLOW[1], ao.Int8WeightOnlyConfig()),
        (SLOW[2], ao.Int8DynamicActivationInt8WeightConfig()),
    ):

        def make(config: object = config) -> tuple[Call, Call]:
            changed = copy.deepcopy(model).bfloat16().cuda()
            ao.quantize_(changed, config)
            return _as_graph(torch.compile(changed, mode="max-autotune-no-cudagraphs"), given)

        yield title, make


def gemlite_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Make]]:
    if importlib.util.find_spec("gemlite") is None:
        return
    from gemlite import helper

    given = x.half()

    def make() -> tuple[Call, Call]:
        changed = copy.deepcopy(model).half().cuda()
        helper.patch_model(changed, device="cuda:0", processor=helper.A8W8_INT8_dynamic())
        return _as_graph(changed, given)

    yield SLOW[3], make


def ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Make]]:
    """(title, what makes the call): what cannot be made is the caller's to report."""
    for each in (torch_ways, torchao_ways, gemlite_ways):
        yield from each(model, x)

"""What else a user of torch could run: torch's own ways in half precision, and torchao and gemlite where they are installed."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Call = Callable[[], object]

QUICK = ("torch eager fp16", "torch CUDA graph fp16")
"""Titles of what needs no compiler."""


def plain_graph(model: nn.Module, x: Tensor) -> Call:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            model(x)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        model(x)
    return graph.replay


def torch_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], Call]]]:
    """(title, a function that makes the call): what cannot be made is the caller's to report."""
    half, given = copy.deepcopy(model).half().cuda(), x.half()
    compiled = torch.compile(half, mode="reduce-overhead")
    yield "torch eager fp16", lambda: lambda: half(given)
    yield "torch CUDA graph fp16", lambda: plain_graph(half, given)
    yield "torch.compile reduce-overhead fp16", lambda: lambda: compiled(given)


def torchao_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], Call]]]:
    if importlib.util.find_spec("torchao") is None:
        return
    from torchao import quantization as ao

    given = x.bfloat16()
    for title, config in (
        ("int8 weight-only", ao.Int8WeightOnlyConfig()),
        ("int8 dynamic", ao.Int8DynamicActivationInt8WeightConfig()),
    ):

        def make(config: object = config) -> Call:
            changed = copy.deepcopy(model).bfloat16().cuda()
            ao.quantize_(changed, config)
            return plain_graph(torch.compile(changed, mode="max-autotune-no-cudagraphs"), given)

        yield f"torchao {title}, compiled, CUDA graph", make


def gemlite_ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], Call]]]:
    if importlib.util.find_spec("gemlite") is None:
        return
    from gemlite import helper

    given = x.half()

    def make() -> Call:
        changed = copy.deepcopy(model).half().cuda()
        helper.patch_model(changed, device="cuda:0", processor=helper.A8W8_INT8_dynamic())
        return plain_graph(changed, given)

    yield "gemlite A8W8 int8 dynamic, CUDA graph", make


def ways(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], Call]]]:
    for each in (torch_ways, torchao_ways, gemlite_ways):
        yield from each(model, x)

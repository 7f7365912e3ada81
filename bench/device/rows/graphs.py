"""Models as CUDA graphs, from the host and on the card; single layers whose weights are in the cache (warm) or are not (cold)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.device.planned.layers import DYNAMIC
from bench.device.rows.models import linear, network, sequence
from bench.device.rows.peers import ways
from bench.device.rows.stages import Held, many, operation, tokens
from bench.device.rows.timing import Fields, copies_for, copies_of, device_us, synchronous, timed
from rtaccel.core.errors import FormatError
from rtaccel.kernels.recurrent.cuda.fit import without

MAX_COPIES = 128
TRITON = ("triton_stack", "triton_float32")


def scheme_of(text: str) -> Any:
    """ "w8a8", with a length of groups "w4a16 g128", or with the way of its activations "w8a8 dynamic"."""
    if text == DYNAMIC:
        return rt.W8A8(activation="dynamic")
    name, _, group = text.partition(" g")
    kinds = {"w4a16": rt.W4A16, "w4a8": rt.W4A8}
    return kinds[name](group_size=int(group)) if group else name


def given(kind: str, name: str) -> tuple[Any, ...]:
    """(model, its inputs on the CPU) of a row: kind "network", "window", "operation", "many", "tokens", or "linear" of MxKxN."""
    if kind == "network":
        model, inputs = network(name)
        return model, torch.randn(1, inputs)
    if kind == "window":
        found = sequence(name)
        return found.model, found.window(1)
    if kind == "operation":
        return operation(name)
    if kind == "many":
        return many(name)
    if kind == "tokens":
        return tokens(name)
    if kind == "linear":
        m, k, n = map(int, name.split("x"))
        return linear(k, n), torch.randn(m, k)
    raise FormatError(
        "bench.device", f"kind {kind!r}", "network, window, operation, many, tokens or linear", "Name one."
    )


def calibration(*inputs: Tensor) -> list[tuple[Tensor, ...]]:
    return [tuple(torch.randn(256 if x.dim() == 2 else 4, *x.shape[1:]) for x in inputs)]


def compiled(model: nn.Module, inputs: Sequence[Tensor], scheme: str, mode: str) -> Any:
    data = calibration(*inputs)
    return rt.compile(model, tuple(inputs), scheme=scheme_of(scheme), calibration=data, device="cuda", mode=mode)


def writer(fast: Any, *inputs: Tensor) -> Callable[[], object]:
    """One call of a model in mode "eager": its kernels, and nothing else, in a graph that is captured around it."""
    out = torch.empty_like(fast(*inputs))
    return lambda: fast.run(*inputs, out=out)


def chosen(kernel: str) -> AbstractContextManager[None]:
    """Windows that are compiled inside have this kernel, one of Triton's, or, where it is "", what is chosen."""
    if kernel not in ("", *TRITON):
        raise FormatError("bench.device", f"kernel {kernel!r}", " or ".join(TRITON), "Name one, or none.")
    return without() if kernel else nullcontext()


def graph_row(kind: str, name: str, scheme: str, seconds: float, kernel: str = "") -> Fields:
    """The bound call of mode "graph" from the host; on the card a graph of many calls, with warm weights. kernel: as `chosen`."""
    model, *inputs = given(kind, name)
    with chosen(kernel):
        fast, there = compiled(model, inputs, scheme, "graph"), [x.cuda() for x in inputs]
        step = fast.bind(*there, out=torch.empty_like(fast(*there)))
        kernels = [line.kernel for line in fast.explain_lines(measure=False)]
        found = timed(synchronous(step), seconds, kernels=kernels)
        return found | {"device_us": device_us([writer(compiled(model, inputs, scheme, "eager"), *there)])}


def cold_row(name: str, scheme: str) -> Fields:
    """A linear layer on the card, again and again on other copies of its weights, so that each call reads them from memory."""
    model, x = given("linear", name)
    fast, there = compiled(model, (x,), scheme, "eager"), x.cuda()
    copies, mib = copies_of(fast, MAX_COPIES)
    us = device_us([writer(each, there) for each in copies])
    kernels = [line.kernel for line in fast.explain_lines(measure=False)]
    return {"device_us": us, "copies": len(copies), "copies_mib": mib, "kernels": kernels}


def torch_linear_row(name: str, cold: bool) -> Fields:
    """The same layer in torch's half precision, by the same graph of many calls, warm or on copies of its weights."""
    model, x = given("linear", name)
    layer, there = model[0], x.cuda().half()
    size = 2 * layer.weight.numel()
    number = min(copies_for(size), MAX_COPIES) if cold else 1
    made = [(layer.weight.detach().half().cuda(), layer.bias.detach().half().cuda()) for _ in range(number)]
    calls = [lambda w=w, b=b: nn.functional.linear(there, w, b) for w, b in made]
    return {"device_us": device_us(calls), "copies": number, "copies_mib": number * size >> 20}


def peer_row(kind: str, name: str, way: str, seconds: float) -> Fields:
    """Another way to run the model, from the host and, where a graph can hold it, on the card with warm weights."""
    model, x, *kept = given(kind, name)
    made = dict(ways(Held(model, *kept) if kept else model, x.cuda()))
    if way not in made:
        return {"outcome": "not run", "error": f"{way}: the package is not installed"}
    with torch.no_grad():
        call, inner = made[way]()
        for _ in range(3):
            call()
        card = {} if inner is None else {"device_us": device_us([inner])}
        return timed(synchronous(call), seconds, **card)


def two_streams(name: str, rounds: int = 200) -> Fields:
    """Two compiled models replayed on two streams at once, with changing inputs: each result as on a stream alone."""
    model, inputs = network(name)
    makes = [rt.compile(model, (torch.randn(1, inputs),), scheme="w8a16", device="cuda") for _ in range(2)]
    xs = [torch.randn(1, inputs, device="cuda") for _ in makes]
    ys = [torch.empty_like(m(x)) for m, x in zip(makes, xs)]
    steps = [m.bind(x, out=y) for m, x, y in zip(makes, xs, ys)]
    streams = [torch.cuda.Stream() for _ in makes]
    torch.cuda.synchronize()
    for _ in range(rounds):
        for x, step, stream in zip(xs, steps, streams):
            with torch.cuda.stream(stream):
                x.normal_()
                step()
        torch.cuda.synchronize()
        if not all(torch.equal(m(x), y) for m, x, y in zip(makes, xs, ys)):
            return {"passed": False, "error": "a replay beside another one gives other numbers"}
    return {"passed": True}

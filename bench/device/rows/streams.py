"""Models of sequences, one time step at a time: on a persistent kernel with the states inside, and the same in torch."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator

import torch

import rtaccel as rt
from bench.device.rows.models import TimeStep, sequence
from bench.device.rows.peers import plain_graph
from bench.device.rows.timing import Fields, device_us, synchronous, timed
from rtaccel.core import settings
from rtaccel.kernels.recurrent.cuda.choice import clustering, polling
from rtaccel.runtime.gpu.persistent_choice import only

HOW = ("", "one poll", "through L2", "GDR mapping")
"""As it is chosen; without warps that poll in turn; without a cluster; with messages in the card's memory, where GDRCopy is."""


def chosen(kernel: str, how: str = "") -> contextlib.ExitStack:
    """Streams that are made inside take this kernel. how: one of HOW."""
    assert how in HOW, how
    stack = contextlib.ExitStack()
    if kernel:
        stack.enter_context(only(kernel))
    if how == "one poll":
        stack.enter_context(polling(0))
    if how == "through L2":
        stack.enter_context(clustering(False))
    if how == "GDR mapping":
        stack.enter_context(mapped_mailbox())
    return stack


def step_row(name: str, scheme: str, seconds: float, kernel: str = "", how: str = "") -> Fields:
    """One time step (the sliding suite of STAC-ML, Tacana), from host memory to host memory. kernel: the only one that may be
    taken, which is how the choice of rt.stream is judged. how: one of HOW."""
    given = sequence(name)
    x = torch.randn(1, given.inputs)
    with chosen(kernel, how):
        live = rt.stream(given.model, x, scheme=scheme, calibration=[given.window(4)], device="cuda")
    try:
        lines = list(live.explain_lines(measure=False))
        step = live.bind(x, out=live.step(x))
        why = [reason for line in lines for reason in line.reasons]
        return timed(step, seconds, kernels=[line.kernel for line in lines], weights=why)
    finally:
        live.close()


@contextlib.contextmanager
def mapped_mailbox() -> Iterator[None]:
    """Models that are made inside have their messages in the card's memory."""
    before = os.environ.get(settings.MAILBOX)
    os.environ[settings.MAILBOX] = "gdr"
    try:
        yield
    finally:
        if before is None:
            del os.environ[settings.MAILBOX]
        else:
            os.environ[settings.MAILBOX] = before


EAGER, GRAPH, COMPILED = "torch eager fp16", "torch CUDA graph fp16", "torch.compile reduce-overhead fp16"


def torch_step_row(name: str, way: str, seconds: float) -> Fields:
    """The same time step as torch has it, on the card, in half precision."""
    given = sequence(name)
    half, x = TimeStep(given).half().cuda().eval(), torch.randn(1, given.inputs, device="cuda").half()
    with torch.no_grad():
        if way == COMPILED:
            half = torch.compile(copy.deepcopy(half), mode="reduce-overhead")  # type: ignore[assignment]
        call = plain_graph(half, x) if way == GRAPH else lambda: half(x)
        for _ in range(3):
            call()
        card = {} if way == COMPILED else {"device_us": device_us([lambda: half(x)])}
        return timed(synchronous(call), seconds, **card)


def many_row(streams: int, units: int, scheme: str, seconds: float) -> Fields:
    """One time step of many streams of a GRU by `rt.stream` in a graph, from tensors on the card to tensors on the card."""
    model, x = torch.nn.GRU(units, units, batch_first=True).eval(), torch.randn(streams, units)
    data = None if scheme == "float32" else [torch.randn(64, 20, units)]
    live = rt.stream(model, x, scheme, data, device="cuda")
    there = x.cuda()
    step = live.bind(there, out=torch.empty_like(live.step(there)))
    kernels = [line.kernel for line in live.explain_lines(measure=False)]
    return timed(synchronous(step), seconds, kernels=kernels)

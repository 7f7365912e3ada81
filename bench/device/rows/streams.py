"""Models of sequences, one time step at a time: on a persistent kernel with the states inside, and the same in torch."""

from __future__ import annotations

import contextlib
import copy

import torch

import rtaccel as rt
from bench.device.rows.models import TimeStep, sequence
from bench.device.rows.peers import plain_graph
from bench.device.rows.timing import Fields, device_us, synchronous, timed
from rtaccel.kernels.recurrent.cuda.choice import polling
from rtaccel.runtime.gpu.persistent_choice import only


def chosen(kernel: str, one_poll: bool) -> contextlib.ExitStack:
    """Streams that are made inside take this kernel."""
    stack = contextlib.ExitStack()
    if kernel:
        stack.enter_context(only(kernel))
    if one_poll:
        stack.enter_context(polling(0))
    return stack


def step_row(name: str, scheme: str, seconds: float, kernel: str = "", one_poll: bool = False) -> Fields:
    """One time step (the sliding suite of STAC-ML, Tacana), from host memory to host memory. kernel: the only one that may be
    taken, which is how the choice of rt.stream is judged. one_poll: without warps that poll in turn."""
    given = sequence(name)
    x = torch.randn(1, given.inputs)
    with chosen(kernel, one_poll):
        live = rt.stream(given.model, x, scheme=scheme, calibration=[given.window(4)], device="cuda")
    try:
        lines = list(live.explain_lines(measure=False))
        step = live.bind(x, out=live.step(x))
        why = [reason for line in lines for reason in line.reasons]
        return timed(step, seconds, kernels=[line.kernel for line in lines], weights=why)
    finally:
        live.close()


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

"""The round trip alone: one float32 to a persistent kernel on the card, and back. And whether the card answers at all.

The only file here that knows how the library starts such a kernel; everything else uses what is public.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from bench.device.rows.timing import Fields, timed
from rtaccel.core.errors import BackendUnavailable

TIMEOUT_NS = 1_000_000_000
END_S = 5.0

Start = Callable[[Tensor, Tensor, Tensor], None]
"""(requests, replies, control): starts the kernel on the current stream."""


def answers() -> Fields:
    """Whether this process can use the card."""
    return {"passed": bool((torch.ones(1, device="cuda") + 1).item() == 2)}


def wait_for_end(finished: Callable[[], bool], limit_s: float = END_S) -> None:
    """Until a kernel that was asked to end has ended. Raises BackendUnavailable: nothing may start beside it."""
    until = time.monotonic() + limit_s
    while not finished():
        if time.monotonic() > until:
            raise BackendUnavailable("null model", "a kernel that does not end", "one that does", "End its process.")
        time.sleep(0.0005)


def round_trip(seconds: float, start: Start, mapped: bool = False) -> Fields:
    """Starts the kernel, times it, ends it and waits for its end. mapped: the message is in the card's memory, by GDRCopy."""
    from rtaccel._native import Mailbox
    from rtaccel.runtime.gpu.persistent_device import Requests, mapped_requests

    words, replies, control = (torch.zeros(n, dtype=torch.int64).pin_memory() for n in (2, 2, 8))
    requests = mapped_requests(2) if mapped else Requests.shared(words)
    requests.clear()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        start(requests.card, replies, control)
    box = Mailbox(requests.host.data_ptr(), 1, replies.data_ptr(), 1, mapped=mapped)
    x, y = torch.ones(1), torch.zeros(1)
    where = (x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
    try:
        if not box.exchange(*where):
            raise BackendUnavailable(
                "null model", "no answer in a second", "one", "Look whether the kernel has started."
            )
        return timed(lambda: box.exchange(*where), seconds)
    finally:
        control[0] = 1
        wait_for_end(stream.query)


def chosen(seconds: float) -> Fields:
    """By the kernel in CUDA C++ whose warps poll in turn, as models have it; where there is none, by Triton's. It says which."""
    from rtaccel.kernels._gpu import cuda_launch
    from rtaccel.kernels._persistent.null import null_kernel

    kernel = null_kernel()
    why_not = cuda_launch.unavailable(kernel)
    if why_not is not None:
        return {**triton(seconds), "kernel": "triton_persistent", "note": why_not}

    def start(requests: Tensor, replies: Tensor, control: Tensor) -> None:
        cuda_launch.bind(kernel)((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, idle_looks=0)

    return {**round_trip(seconds, start), "kernel": kernel.name}


def triton(seconds: float) -> Fields:
    """By Triton's kernel, compiled here or built ahead."""
    from rtaccel.kernels._gpu.triton_launch import bind
    from rtaccel.kernels.mlp.triton.persistent import specialize_null

    def start(requests: Tensor, replies: Tensor, control: Tensor) -> None:
        bind(specialize_null(1, 1))((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, idle_looks=0)

    return round_trip(seconds, start)


def cuda(seconds: float) -> Fields:
    """By the kernel in CUDA C++, each of whose threads waits for no other one."""
    return round_trip(seconds, _start_cuda)


def mapped(seconds: float) -> Fields:
    """The same, with messages in the card's memory."""
    return round_trip(seconds, _start_cuda, True)


def _start_cuda(requests: Tensor, replies: Tensor, control: Tensor) -> None:
    from rtaccel.kernels._gpu import cubin_launch
    from rtaccel.kernels._gpu.cuda_nvrtc import ECHO, compile_cubin

    major, minor = torch.cuda.get_device_capability()
    launch = cubin_launch.load(compile_cubin(ECHO, 10 * major + minor))
    launch((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, words=1, idle_looks=0)


def built_ahead(seconds: float) -> Fields:
    """By Triton's kernel from the folder of kernels built ahead, and from nowhere else."""
    from rtaccel.kernels._gpu import triton_launch
    from rtaccel.kernels.mlp.triton.persistent import specialize_null

    if triton_launch.built_ahead(triton_launch.spec_key(specialize_null(1, 1))) is None:
        raise BackendUnavailable(
            "null model", "no kernel built ahead", "one in the folder", "Look at what building said."
        )
    return triton(seconds)

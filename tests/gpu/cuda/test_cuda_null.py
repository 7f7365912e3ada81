"""The persistent model without a layer: the same source on a CPU under the real host side, and its machine code."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rtaccel._native import Mailbox
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels._gpu.triton_spec import SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE
from rtaccel.kernels._persistent.card import SHARED_BYTES
from rtaccel.kernels._persistent.null import null_kernel, shared_bytes
from tests.cuda_checks import on_host
from tests.support import kept

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has the disassembler")
needs_nvrtc = pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")
needs_compiler = pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler")

ROOT = Path(__file__).parents[3]
SOURCE = cuda_nvrtc.FOLDER / "_persistent/cuda_null.cu"
RUNNING, ABORTED, IDLE = 1, 2, 3
SECOND_NS = 1_000_000_000


class Running:
    """The kernel as fibers of a thread, and its mailbox."""

    def __init__(self, words: int, pollers: int, seed: int, skipped: int = 0, idle_looks: int = 0) -> None:
        path = on_host.build(null_kernel(words, pollers), "null.so", "-shared", "-fPIC")
        self.requests, self.replies = (torch.zeros(2 * words, dtype=torch.int64) for _ in range(2))
        self.control, idle = torch.zeros(8, dtype=torch.int64), ctypes.c_int(idle_looks)
        places = [t.data_ptr() for t in (self.requests, self.replies, self.control)] + [ctypes.addressof(idle)]
        run = ctypes.CDLL(str(path)).rtaccel_on_host
        arguments = (ctypes.c_void_p * 4)(*places)
        held = self.requests, self.replies, self.control, idle  # a kernel that never ends writes to them later
        self.thread = threading.Thread(target=lambda: (held, run(arguments, seed, skipped, -1)), daemon=True)
        self.thread.start()
        self.words = words
        self.box = Mailbox(self.requests.data_ptr(), words, self.replies.data_ptr(), words)

    def answer(self, x: Tensor, timeout_ns: int = 20 * SECOND_NS) -> Tensor | None:
        y = torch.full_like(x, -1.0)
        return y if self.box.exchange(x.data_ptr(), y.data_ptr(), timeout_ns) else None

    def end(self, timeout_s: float = 60) -> int:
        self.control[0] = 1
        self.thread.join(timeout_s)
        return int(self.control[1])


def messages(words: int, count: int) -> list[Tensor]:
    made = [torch.randn(words) for _ in range(count)]
    made[1][words // 2] = float("nan")
    return made


def same(x: Tensor, y: Tensor | None) -> bool:
    return y is not None and torch.equal(x.view(torch.int32), y.view(torch.int32))


@needs_compiler
@pytest.mark.parametrize(("words", "pollers"), [(1, 4), (1, 1), (3, 2), (40, 4), (70, 3)])
def test_it_answers_with_the_message(words: int, pollers: int) -> None:
    """In three orders of the threads, one of them with warps that lag behind."""
    for seed in (1, 2, 3):
        running = Running(words, pollers, seed)
        assert all(same(x, running.answer(x)) for x in messages(words, 8))
        assert int(running.control[1]) == RUNNING and running.end() == ABORTED
        assert not running.thread.is_alive()


@needs_compiler
def test_without_messages_it_ends_by_itself() -> None:
    running = Running(1, 4, 1, idle_looks=50)
    assert same(torch.ones(1), running.answer(torch.ones(1)))
    running.thread.join(60)
    assert not running.thread.is_alive() and int(running.control[1]) == IDLE


def barriers() -> list[int]:
    """Lines of the kernel at which threads wait for each other."""
    words = ("meet<", "arrive<", "__syncthreads();")
    return [n for n, line in enumerate(SOURCE.read_text().splitlines(), 1) if any(word in line for word in words)]


def goes_wrong(skipped: int, seed: int) -> bool:
    running = Running(3, 4, seed, skipped)
    wrong = not all(same(x, running.answer(x, SECOND_NS)) for x in messages(3, 6))
    if not skipped:
        running.end()
    return wrong


def first_wrong(skipped: int) -> int:
    """The first order of the threads in which an answer is another one, or does not come; 0 for none."""
    return next((seed for seed in range(1, 7) if goes_wrong(skipped, seed)), 0)


ALONE = """
import os, sys
from tests.gpu.cuda.test_cuda_null import first_wrong
print(first_wrong(int(sys.argv[1])), flush=True)
os._exit(0)  # a kernel without a barrier may never end
"""


@needs_compiler
def test_every_barrier_is_needed() -> None:
    """Where nobody waits at one of them some order of the threads gives another answer, or none; with all of them none does. Each
    in a process of its own, which ends what runs on."""
    assert len(barriers()) == 3 and first_wrong(0) == 0
    for line in barriers():
        command = [sys.executable, "-c", ALONE, str(line)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) > 0, f"nobody needs line {line}"


@needs_triton
@needs_nvrtc
@pytest.mark.parametrize("capability", SHARED_BYTES)
def test_its_code_is_small(capability: int) -> None:
    """Nothing on a stack, no fence of the system, and less of a thread's registers than a warp of a model may have."""
    kernel = null_kernel()
    found = kept.read(kept.cubin(kernel, capability).code, kernel.shared_bytes)
    assert (found.stack_bytes, found.local_bytes, found.spills) == (0, 0, 0)
    assert found.registers <= 56 and found.total <= 600, (found.registers, found.total)
    assert found.count(SYSTEM_LOAD) >= 2 and found.count(SYSTEM_STORE) >= 3
    assert found.count(SYSTEM_FENCE) == 0
    assert found.count(r"BAR\b") >= 3


@needs_triton
@needs_nvrtc
def test_a_long_message_stays_in_registers() -> None:
    kernel = null_kernel(200)
    found = kept.read(kept.cubin(kernel, 90).code, kernel.shared_bytes)
    assert (found.stack_bytes, found.local_bytes, found.spills) == (0, 0, 0)


def test_what_is_counted_of_its_shared_memory() -> None:
    """A message twice, whether each ends the kernel, and four words among warps, in whole 16 bytes."""
    assert [shared_bytes(words) for words in (1, 3, 40)] == [32, 48, 352]


def test_a_form_has_a_name_and_a_key_of_its_own() -> None:
    forms = [null_kernel(), null_kernel(3), null_kernel(1, 2)]
    assert len({form.name for form in forms}) == len({form.key for form in forms}) == 3
    assert forms[0].num_warps == 5

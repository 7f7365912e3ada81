"""The native bound exchange with a persistent kernel, and the thread that makes it again and again; threads play the kernel.
What a bound call of a compiled model does is in tests/gpu/test_persistent.py too."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel._native import Mailbox, MailboxLoop, MailboxStep
from rtaccel.core.errors import BackendUnavailable, ShapeError
from rtaccel.kernels._core.cpu import connect
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent
from rtaccel.runtime.options import Options
from tests.support.fake_kernel import FakeCard

TIMEOUT_NS = 10_000_000_000


class Refused(Exception):
    pass


def refused(what: str) -> NoReturn:
    raise Refused(what)


class Side:
    """A bound step of so many words, and an echo for its other side."""

    def __init__(
        self,
        request_words: int,
        reply_words: int,
        timeout_ns: int = TIMEOUT_NS,
        commands: bool = False,
        shared: bool = False,
    ):
        connect()
        self.requests = torch.zeros(2 * (request_words + commands), dtype=torch.int64)
        self.replies, self.control = (torch.zeros(n, dtype=torch.int64) for n in (2 * reply_words, 8))
        if shared:
            self.requests.share_memory_(), self.replies.share_memory_()
        arguments = (self.requests.data_ptr(), request_words, self.replies.data_ptr(), reply_words, commands)
        self.box, self.kernel = Mailbox(*arguments), Mailbox(*arguments)
        self.whole = torch.randn(request_words + 8)
        self.x, self.y = self.whole[4 : 4 + request_words].view(1, -1), torch.full((1, reply_words), 7.0)
        self.step = MailboxStep(self.box, self.x, self.y, self.control.data_ptr(), timeout_ns, refused)

    def play(self, messages: int, timeout_ns: int = TIMEOUT_NS) -> threading.Thread:
        player = threading.Thread(target=lambda: self.kernel.echo(messages, timeout_ns))
        player.start()
        return player


@pytest.mark.parametrize(("request_words", "reply_words"), [(1, 1), (5, 3), (300, 512)])
def test_a_step_reads_and_writes_its_tensors(request_words: int, reply_words: int) -> None:
    side = Side(request_words, reply_words)
    player = side.play(50)
    for _ in range(50):
        side.x.normal_()
        side.y.fill_(float("nan"))
        assert side.step() is None
        want = torch.cat([side.x[0], side.x[0, -1:].expand(reply_words)])[:reply_words]
        assert torch.equal(side.y[0], want)
    player.join()
    assert side.box.number == 50


def test_a_step_fits_its_mailbox() -> None:
    side = Side(4, 2)
    for x, y in (
        (torch.zeros(3), side.y), (side.x, torch.zeros(3)), (side.x.double(), side.y), (torch.zeros(8)[::2], side.y),
        (torch.zeros(4, dtype=torch.int32), side.y),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not fit the mailbox"):
            MailboxStep(side.box, x, y, side.control.data_ptr(), TIMEOUT_NS, refused)


def test_memory_that_is_gone_is_refused_before_anything_is_sent() -> None:
    for corrupt in (
        lambda side: side.x.set_(torch.randn(1, 4)),
        lambda side: side.y.untyped_storage().resize_(0),
        lambda side: side.x.untyped_storage().resize_(1 << 20),
        lambda side: torch.utils.swap_tensors(side.x, torch.randn(1, 4)),
        lambda side: side.y.data.set_(torch.zeros(1, 2)) is None or side.y.set_(torch.zeros(1, 2)),
        lambda side: side.whole is None or side.x.set_(side.whole.untyped_storage(), 5, (1, 4), (4, 1)),
    ):
        side = Side(4, 2)
        corrupt(side)
        with pytest.raises(Refused, match="moved"):
            side.step()
        assert side.box.number == 0 and not side.requests.any()


def test_no_answer_and_a_kernel_that_was_ended() -> None:
    side = Side(2, 1, timeout_ns=20_000_000)
    start = time.perf_counter()
    with pytest.raises(Refused, match="no answer"):
        side.step()
    assert 0.02 <= time.perf_counter() - start < 5
    ended = Side(2, 1)
    ended.control[0] = 1
    with pytest.raises(Refused, match="ended"):
        ended.step()  # at once
    assert ended.box.number == 0
    made: list[str] = []
    step = MailboxStep(ended.box, ended.x, ended.y, ended.control.data_ptr(), TIMEOUT_NS, made.append)
    step()  # made in another way
    assert made == ["ended"]


def test_the_first_message_of_another_kernel() -> None:
    side = Side(2, 2, commands=True)
    for _ in range(2):
        player = side.play(3)
        for _ in range(3):
            side.step()
        player.join()
        assert side.box.number == 3
        for words in (side.requests, side.replies):
            words.zero_()
        side.box.command = 5  # waits for the first message
        side.box.restart()
        side.kernel.restart()
        assert (side.box.number, side.box.command) == (0, 5)


def test_a_long_wait_leaves_the_interpreter_to_other_threads() -> None:
    side = Side(1, 1)
    counted: list[int] = []

    def answer_late() -> None:  # needs the GIL a hundred times before there is an answer
        for _ in range(100):
            counted.append(sum(range(100)))
            time.sleep(0.0005)
        side.kernel.echo(1, TIMEOUT_NS)

    late = threading.Thread(target=answer_late)
    late.start()
    side.step()
    assert len(counted) == 100
    late.join()


def test_a_command_goes_with_the_next_message_alone() -> None:
    side = Side(2, 1, commands=True)
    player = side.play(3)
    sent = []
    for command in (5, 0, 0):
        if command:
            side.box.command = command
        slot = 3 * ((side.box.number + 1) & 1)
        side.step()
        sent.append(int(side.requests[slot + 2]) & 0xFFFFFFFF)
        assert side.box.command == 0
    player.join()
    assert sent == [5, 0, 0]


def test_orders_are_added_and_taken_back() -> None:
    """What was not sent can be taken back, bit by bit; what was sent cannot."""
    side = Side(2, 1, commands=True)
    side.box.order(1)
    side.box.order(48)
    assert side.box.command == 49
    assert side.box.withdraw(48) and side.box.command == 1
    assert not side.box.withdraw(48)
    side.box.order(16)
    player = side.play(1)
    side.step()
    player.join()
    assert int(side.requests[3 + 2]) & 0xFFFFFFFF == 17
    assert not side.box.withdraw(16) and side.box.command == 0


def test_threads_take_turns_at_a_mailbox() -> None:
    side = Side(3, 3)
    wrong: list[int] = []

    def use(seed: int) -> None:
        x, y = torch.full((3,), float(seed)), torch.zeros(3)
        step = MailboxStep(side.box, x, y, side.control.data_ptr(), TIMEOUT_NS, refused)
        for i in range(200):
            x.fill_(seed + i / 256)
            step()
            if not torch.equal(x, y):
                wrong.append(i)

    player = side.play(800)
    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    player.join()
    assert not wrong and side.box.number == 800


# -- the thread that makes it again and again --------------------------------------------------------------------------


def wait_until(loop: MailboxLoop, calls: int) -> None:
    until = time.monotonic() + 60
    while loop.answered < calls and time.monotonic() < until:
        time.sleep(0.001)
    assert loop.answered >= calls


def wait_until_failed(loop: MailboxLoop) -> None:
    until = time.monotonic() + 60
    while not loop.failed and time.monotonic() < until:
        time.sleep(0.001)
    assert loop.failed


@pytest.fixture
def echoing() -> Iterator[Side]:
    side = Side(4, 4, timeout_ns=200_000_000)
    player = side.play(1 << 60, 1_000_000_000)  # until nobody calls for a second
    yield side
    player.join()


@pytest.mark.parametrize("core", [-1, min(os.sched_getaffinity(0))])
def test_a_loop_counts_what_was_answered(core: int, echoing: Side) -> None:
    loop = MailboxLoop(echoing.step, core)
    total = 0
    for _ in range(2):
        loop.start()
        with pytest.raises(RuntimeError, match="runs already"):
            loop.start()
        with pytest.raises(RuntimeError, match=r"stop\(\) it first"):
            echoing.step()
        with pytest.raises(RuntimeError, match="another MailboxLoop"):
            MailboxLoop(echoing.step, -1).start()
        wait_until(loop, 500)
        count = loop.stop()
        assert count >= 500 and loop.stop() == count and not loop.failed
        total += count
        assert echoing.box.number == total
        assert torch.equal(echoing.x, echoing.y)
        echoing.x.normal_()
        echoing.step()  # the mailbox is free again
        assert torch.equal(echoing.x, echoing.y)
        total += 1


def test_a_loop_ends_where_no_answer_comes() -> None:
    side = Side(2, 2, timeout_ns=50_000_000)
    player = side.play(300)
    loop = MailboxLoop(side.step, -1)
    loop.start()
    player.join()
    wait_until_failed(loop)
    assert loop.stop() == 300
    ended = Side(2, 2)
    ended.control[0] = 1
    loop = MailboxLoop(ended.step, -1)
    loop.start()
    assert loop.stop() == 0


def test_a_core_that_is_not_there(echoing: Side) -> None:
    for core in (1 << 20, 1023):
        loop = MailboxLoop(echoing.step, core)
        with pytest.raises(ValueError, match="core"):
            loop.start()
        assert loop.stop() == 0
    echoing.step()


def test_a_loop_keeps_what_it_uses() -> None:
    side = Side(4, 4)
    player = side.play(1 << 60, 1_000_000_000)
    loop, gone, kept = MailboxLoop(side.step, -1), weakref.ref(side), (side.control, side.requests, side.replies)
    loop.start()
    wait_until(loop, 10)
    moved = torch.zeros(1, 4)
    side.y.set_(moved)  # its storage goes on in the loop alone
    del side
    gc.collect()
    before = loop.answered
    wait_until(loop, before + 2000)
    assert loop.stop() >= 2000 and not loop.failed
    assert not moved.any()  # written is what was bound
    with pytest.raises(Refused, match="moved"):
        loop.start()
    player.join()
    del loop
    gc.collect()
    assert gone() is None
    assert kept


def test_a_loop_that_is_dropped_or_left_running_at_exit() -> None:
    code = """
    import os
    from tests.gpu.test_mailbox_step import Side, MailboxLoop, wait_until
    sides = [Side(4, 4, shared=True), Side(4, 4, shared=True)]
    for side in sides:
        if os.fork() == 0:  # its kernel
            side.kernel.echo(1 << 60, 500_000_000)
            os._exit(0)
    dropped, left = (MailboxLoop(side.step, -1) for side in sides)
    dropped.start(), left.start()
    wait_until(dropped, 100), wait_until(left, 100)
    del dropped
    print("end", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


# -- of a compiled model -----------------------------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    made = FakeCard()
    monkeypatch.setattr(persistent, "persistent_device", lambda: made)
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 5_000_000_000)
    yield made
    for kernel in made.kernels:
        kernel._control[0] = 1


def bound() -> tuple[CompiledModel, Tensor, Tensor, MailboxStep]:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'rtaccel[gpu]')")
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    x, y = torch.randn(1, 20), torch.full((1, 5), 7.0)
    plain = rt.compile(model, (x,), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 20)])
    fast = CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)
    step = fast.bind(x, out=y)
    assert type(step) is MailboxStep
    return fast, x, y, step


def test_what_a_bound_call_ends_with(card: FakeCard) -> None:
    fast, x, _, step = bound()
    step()
    kept = x.clone()
    x.set_(torch.randn(1, 20))
    with pytest.raises(ShapeError, match="Bind again"):
        step()
    step = fast.bind(kept, out=torch.empty(1, 5))
    fast.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        step()


def test_a_bound_call_goes_on_after_a_pause(card: FakeCard) -> None:
    fast, x, y, step = bound()
    step()
    want = y.clone()
    fast.suspend()
    assert card.kernels[0].finished()
    y.fill_(7.0)
    step()  # starts it again
    assert len(card.kernels) == 2 and torch.equal(y, want)
    for _ in range(3):
        x.normal_()
        step()
        assert torch.equal(y, fast(x))


def test_a_bound_call_without_an_answer(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000)
    card.mute = True
    _, _, _, step = bound()
    with pytest.raises(BackendUnavailable, match=r"no answer in 0.02 s; it runs, it still looks"):
        step()
    assert card.kernels[0].finished()
    with pytest.raises(BackendUnavailable, match="no answer"):
        step()


def test_a_loop_on_a_model(card: FakeCard) -> None:
    fast, x, y, step = bound()
    loop = MailboxLoop(step, -1)
    loop.start()
    wait_until(loop, 20)
    with pytest.raises(RuntimeError, match="stop"):
        fast(x)
    assert loop.stop() >= 20 and not loop.failed
    assert torch.equal(fast(x), y)
    loop.start()
    fast.close()
    wait_until_failed(loop)
    loop.stop()


def test_a_bound_call_is_measured_inside(card: FakeCard) -> None:
    _, _, _, step = bound()
    found = rt.measure(step, samples=30, inside=True)
    assert found.n == 30 and found.p50_us > 0

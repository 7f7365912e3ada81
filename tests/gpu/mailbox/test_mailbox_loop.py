"""The thread that makes a bound exchange again and again; threads play the kernel."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator

import pytest
import torch

from rtaccel._native import MailboxLoop
from tests.gpu.mailbox.side import Refused, Side, wait_until, wait_until_failed


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
    from rtaccel._native import MailboxLoop
    from tests.gpu.mailbox.side import Side, wait_until
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

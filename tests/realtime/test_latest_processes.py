"""The slot between processes: nothing torn, nothing backward; writers and readers that are killed at any point."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.core.errors import UnsupportedProblem

WRITER = Path(__file__).with_name("writer.py")
BOTH = pytest.mark.parametrize("readers", ["one", "many"])
FOREVER = 10**15


def start_writer(name: str, count: int, first: int = 1, how: str = "fast") -> subprocess.Popen[str]:
    words = [sys.executable, str(WRITER), name, str(count), str(first), how]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@BOTH
@pytest.mark.parametrize("words", [1, 37, 500])
def test_nothing_is_torn_or_goes_back(name: str, readers: str, words: int) -> None:
    puts = 1_000_000 if words < 100 else 200_000
    slot = rt.Latest((words,), "int64", name, readers=readers)
    writer = start_writer(name, puts)
    torn, backward, fresh, _ = native.latest_soak_get(slot, 1_000_000, puts)
    assert writer.wait(60) == 0
    assert (torn, backward) == (0, 0)
    assert 1 <= fresh <= puts
    got = slot.get()
    assert (got.seq, got.value[-1]) == (puts, puts)


@BOTH
def test_threads_of_one_process(readers: str) -> None:
    slot = rt.Latest((20,), "int64", readers=readers)
    thread = threading.Thread(target=native.latest_soak_put, args=(slot, 500_000))
    thread.start()
    torn, backward, _, _ = native.latest_soak_get(slot, 300_000, 500_000)
    thread.join()
    assert (torn, backward) == (0, 0)


@BOTH
def test_writers_that_are_killed(name: str, readers: str) -> None:
    """Each leaves a whole value; the next goes on with its numbers, and a living one is never pushed aside."""
    rng = random.Random(7)
    slot = rt.Latest((2000,), "int64", name, readers=readers)  # a put takes long enough to be hit in the middle
    last, first = 0, 1
    for round_ in range(6):
        writer = start_writer(name, FOREVER, first, "slowly" if round_ % 3 == 2 else "fast")
        while slot.get().seq <= last:
            time.sleep(0.001)
            assert writer.poll() is None
        with pytest.raises(UnsupportedProblem, match="writer"):
            slot.put(np.zeros(2000, np.int64))
        torn, backward, _, _ = native.latest_soak_get(slot, rng.randrange(1, 20_000))
        assert (torn, backward) == (0, 0)
        writer.send_signal(signal.SIGKILL)  # and not waited for: a zombie is dead too
        torn, backward, _, _ = native.latest_soak_get(slot, 2_000)
        assert (torn, backward) == (0, 0)
        end = time.monotonic() + 60
        while Path(f"/proc/{writer.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < end
            time.sleep(0.001)
        got = slot.get()
        assert len(set(got.value.tolist())) == 1
        assert got.seq >= last
        time.sleep(0.01)
        assert slot.get().age_us >= 10_000  # the age grows
        assert slot.get().status == "old"
        last, first = slot.get().seq, int(got.value[0]) + 1
        writer.wait()
    assert slot.put(np.full(2000, first, np.int64)) == last + 1


def test_readers_that_are_killed(name: str) -> None:
    slot = rt.Latest((500,), "int64", name)
    code = f"""
import rtaccel as rt, rtaccel._native as native
slot = rt.Latest.open({name!r}); slot.get(); print("up", flush=True)
native.latest_soak_get(slot, {FOREVER})
"""
    seen = 0
    stop = threading.Event()

    def write() -> None:
        first = 1
        while not stop.is_set():
            native.latest_soak_put(slot, 2_000, first)
            first += 2_000

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(4):
            reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            assert reader.stdout is not None
            assert reader.stdout.readline() == "up\n"
            time.sleep(0.02)
            reader.kill()
            reader.wait()
            mine = rt.Latest.open(name)  # the side is free again
            torn, backward, _, _ = native.latest_soak_get(mine, 20_000)
            assert (torn, backward) == (0, 0)
            assert mine.get().seq > seen
            seen = mine.get().seq
            mine.close()
    finally:
        stop.set()
        thread.join()


def test_a_forked_child_has_no_side() -> None:
    slot = rt.Latest((2,))
    slot.put([1, 2])
    slot.get()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            slot.put([3, 4])
        except UnsupportedProblem:
            try:
                slot.get()
            except UnsupportedProblem:
                code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert slot.put([3, 4]) == 2


def test_from_c(name: str, tmp_path: Path) -> None:
    """The same slot by the C functions, through the shared library."""
    library = ctypes.CDLL(str(Path(native.__file__).with_name("librtaccel.so")))
    library.rta_latest_open.restype = ctypes.c_void_p
    library.rta_latest_put.restype = ctypes.c_int64
    library.rta_latest_put.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    library.rta_latest_close.argtypes = [ctypes.c_void_p]
    slot = rt.Latest((3,), "float64", name)
    other = library.rta_latest_open(name.encode())
    value = (ctypes.c_double * 3)(1.5, 2.5, 3.5)
    assert library.rta_latest_put(other, value, 7) == 1
    got = slot.get()
    assert (got.value.tolist(), got.stamp_ns) == ([1.5, 2.5, 3.5], 7)
    library.rta_latest_close(other)
    assert slot.put(np.zeros(3)) == 2

"""Real-time conventions of a sealed model: no allocation, no page fault and no system call in a call, the same bits each time."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import rtaccel as rt
from tests.support.processes.run import PYTHON

PRELUDE = """
import ctypes, gc, os, resource, sys, torch, rtaccel as rt
torch.set_num_threads(1)
torch.manual_seed(3)
threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
n = 700 if threads > 1 else 96
layers = [torch.nn.Linear(n, n), torch.nn.BatchNorm1d(n), torch.nn.GELU(), torch.nn.Linear(n, 40)]
model = torch.nn.Sequential(*layers, torch.nn.Softmax(-1)).eval()
x, y = torch.randn(5, n), torch.empty(5, 40)
fast = rt.compile(model, (x,), sys.argv[1], threads=threads).seal()
step, run = fast.bind(x, out=y), fast.run
gc.collect()
gc.disable()
"""


def script(code: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*PYTHON, "-c", PRELUDE + code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **(env or {})}
    )


COUNTER = r"""
#define _GNU_SOURCE
#include <stddef.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static long calls;
long counted_allocations(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }
static void count(void) { __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST); }
void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { count(); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { count(); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { count(); *p = __libc_memalign(a, n); return *p ? 0 : 12; }
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    library = folder / "counter.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "counter.c")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"this C library cannot be wrapped so: {built.stderr[:200]}")
    return str(library)


# Everything is counted in one process. A filter kills it at any system call of its thread but those allowed; a child
# that makes another one shows that the filter works.
MANNERS = """
import json, platform
from array import array
from itertools import repeat
from rtaccel._native import time_calls
samples = array("q", bytes(16000))
counted = ctypes.PyDLL(None).counted_allocations
counted.restype = ctypes.c_long
def faults():
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_minflt + usage.ru_majflt
def write():
    run(x, out=y)
def loop(call):
    for _ in repeat(None, 2000):
        call()
def count(counter, f, *arguments):
    before = counter()
    f(*arguments)
    return counter() - before
def nothing():
    pass
result = {}
for _ in repeat(None, 2):  # the second time counts: the first makes what this script needs for itself
    for name, call in (("empty", nothing), ("bound", step), ("run", write)):
        result[name + " allocations"] = count(counted, loop, call)
        result[name + " faults"] = count(faults, loop, call)
    for calls in (500, 2000):
        result[f"{calls} timed"] = count(counted, time_calls, step, (), samples, 0, calls, 1 << 62)
result["planted allocations"] = count(counted, lambda: [torch.empty(1000) for _ in range(50)])
result["planted faults"] = count(faults, torch.zeros, 1 << 22)

numbers = {"x86_64": dict(write=1, exit_group=231, futex=202), "aarch64": dict(write=64, exit_group=94, futex=98)}
numbers = numbers[platform.machine()]
class Op(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("ops", ctypes.POINTER(Op))]
names = ["write", "exit_group"] + ["futex"] * (threads > 1)
ops = [(0x20, 0, 0, 0)]  # load the number of the call
ops += [(0x15, len(names) - i, 0, numbers[name]) for i, name in enumerate(names)]  # equal: jump to the end
ops += [(0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)]  # kill the process; allow
program = Program(len(ops), (Op * len(ops))(*[Op(*op) for op in ops]))
libc = ctypes.CDLL(None)
def allow_only_these():
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
child = os.fork()
if child == 0:
    os._exit(os.getppid() * 0 + 1 if allow_only_these() else 2)
result["planted system call"] = os.waitpid(child, 0)[1]
if threads > 1:
    fast.prefault()
loop(step), loop(write)
report = json.dumps(result).encode()
if result["planted system call"] == 2 << 8:  # no filters here
    os.write(1, report)
    os._exit(0)
allow_only_these()
loop(step), loop(write)
os.write(1, report)
os._exit(0)
"""
SIGSYS = 31


@pytest.mark.parametrize(("scheme", "threads"), [("float32", 1), ("w8a8", 1), ("w8a8", 2)])
def test_calls_of_a_sealed_model(counter: str, scheme: str, threads: int) -> None:
    """2000 bound calls and 2000 of run: no allocation in any thread, no page fault and no system call in the caller's.

    With two threads the caller may also use futex: it wakes the second one.
    """
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip("needs two cores")
    done = script(MANNERS, scheme, str(threads), env={"LD_PRELOAD": counter, "PYTHONMALLOC": "malloc"})
    assert done.returncode == 0, f"{done.returncode} (-{SIGSYS}: a system call) {done.stderr[-3000:]}"
    result = json.loads(done.stdout)
    assert result.pop("planted allocations") >= 50, "allocations are not counted"
    assert result.pop("planted faults") > 10, "faults are not counted"
    planted = result.pop("planted system call")
    loop = result.pop("empty allocations")  # of the loop and the counting themselves: the same for any number of calls
    assert loop <= 3
    assert result.pop("empty faults") == 0
    assert result.pop("2000 timed") == result.pop("500 timed") <= 20, "the loop that measures allocates for each call"
    assert result == {"bound allocations": loop, "bound faults": 0, "run allocations": loop, "run faults": 0}
    if planted == 2 << 8:
        pytest.skip("this system allows no filter of system calls; the rest holds")
    assert os.WTERMSIG(planted) == SIGSYS, "a planted system call went through"


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(77, 300), nn.Tanh(), nn.Linear(300, 33)).eval()


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_the_same_bits_every_time(scheme: str) -> None:
    x, other = torch.randn(9, 77), torch.randn(64, 77)
    fast = rt.compile(network(), (x,), scheme, threads=min(2, len(os.sched_getaffinity(0)))).seal()
    first = fast(x)
    for repeat in range(200):
        if repeat % 3 == 0:
            fast(other)
        if repeat % 20 == 0:
            torch.randn(300, 300) @ torch.randn(300, 300)
            gc.collect()
        assert torch.equal(fast(x), first)


def test_prefault_counts_what_the_plan_holds() -> None:
    fast = rt.compile(network(), (torch.randn(1, 77),))
    packed, scratch = fast.plan_bytes
    assert packed + scratch <= fast.prefault() < packed + scratch + 3 * resource.getpagesize()
    assert "code of all kernels" in fast.explain(measure=False)


def test_a_child_that_prefaults_faults_on_no_page_of_the_plan() -> None:
    """After fork() the first write to a page faults, in parent and child; prefault() does that ahead."""
    code = """
def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
x, y = torch.randn(3000, n), torch.empty(3000, 40)
big = rt.compile(torch.nn.Sequential(torch.nn.Linear(n, 40000), torch.nn.Linear(40000, 40)).eval(), (x[:1],))
step = big.bind(x[:32], out=y[:32])
small = rt.compile(torch.nn.Linear(n, 40).eval(), (x[:1],)).bind(x[:32], out=y[32:64])
step(), small()
counts = []
for wanted in (False, True):
    read, write = os.pipe()
    if os.fork() == 0:
        faults(); faults()
        y.zero_(); gc.collect()
        if wanted:
            big.prefault()
        small()  # the interpreter's own pages, which a call writes to
        before = faults()
        step()
        os.write(write, str(faults() - before).encode())
        os._exit(0)
    os.wait()
    counts.append(int(os.read(read, 20)))
print(*counts)
"""
    done = script(code, "float32")
    assert done.returncode == 0, done.stderr[-3000:]
    without, with_it = map(int, done.stdout.split())
    assert without > 1000
    assert with_it <= 16  # of the interpreter itself: its heap is copied on write as well, some of it anew


def locked_bytes() -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmLck"))
    return int(line.split()[1]) * 1024


def test_lock() -> None:
    fast = rt.compile(network(), (torch.randn(1, 77),))
    before = locked_bytes()
    assert fast.seal(lock=True) is fast
    assert locked_bytes() - before >= sum(fast.plan_bytes)
    assert "locked in memory" in fast.explain(measure=False)
    fast.load_state_dict({name: tensor.clone() for name, tensor in fast.state_dict().items()})
    assert locked_bytes() - before >= sum(fast.plan_bytes), "a new plan of a sealed model is locked as well"
    del fast
    gc.collect()
    assert locked_bytes() == before


def test_lock_that_is_not_allowed() -> None:
    code = """
libc = ctypes.CDLL(None, use_errno=True)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
if os.getuid() == 0:
    os.setuid(65534)  # root may lock any amount
fast = rt.compile(model, (x,))
try:
    fast.seal(lock=True)
except rt.UnsupportedProblem as error:
    print(error)
print("sealed" in fast.explain(measure=False))
"""
    done = script(code, "float32")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4096 B" in done.stdout
    assert "seal" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_seal_without_a_native_plan() -> None:
    fast = rt.compile(network(), (torch.randn(1, 77),), backend="portable")
    assert fast.prefault() == 0
    with pytest.raises(rt.UnsupportedProblem, match="native stages"):
        fast.seal(lock=True)

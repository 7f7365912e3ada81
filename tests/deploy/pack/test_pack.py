"""rtaccel pack: a library with one model's kernels gives the bits of the whole one, from a file and from .rodata."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
import rtaccel._native as native
from rtaccel.backends.cpu import isas
from rtaccel.core import settings
from rtaccel.deploy.pack import pack
from rtaccel.runtime.compiled import CompiledModel

HERE = Path(__file__).parents[1]
BEST = next((name for name in ("avx2", "neon", "portable") if name in isas()), "portable")
HAS = [name for name in isas() if not native.reject("linear", f"cpu_{name}", {"weight_dtype": "int8"})]
"""Instruction sets of this CPU; `isas()` has all that the core was compiled for."""

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("cc") is None, reason="no C or C++ compiler"
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)).eval()


def compiled(seed: int) -> CompiledModel:
    """int8, with the same static scales for every seed."""
    net, scales = network(seed), [torch.randn(256, 24, generator=torch.Generator().manual_seed(9))]
    if seed == 0:
        return rt.compile(net, torch.randn(1, 24), "w8a8", calibration=scales)
    state = {k: v.clone() for k, v in compiled(0).state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("weight") and tensor.dtype == torch.int8:
            state[name] = tensor.flip(1)
    other = compiled(0)
    other.load_state_dict(state)
    return other


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, bytes]:
    fast, x = compiled(0), torch.randn(3, 24)
    return rt.save(fast, tmp_path_factory.mktemp("pack") / "policy.rta"), x.numpy(), fast(x).numpy().tobytes()


EMBEDDED = """
#include <stdio.h>
#include "policy.h"
int main(void) {
  rta_model* model = rta_model_from_memory(policy_model, POLICY_MODEL_BYTES, 0);
  if (!model) { fprintf(stderr, "%s", rta_error()); return 1; }
  float x[3 * POLICY_INPUT_0_ELEMENTS], y[3 * POLICY_OUTPUT_0_ELEMENTS];
  if (fread(x, sizeof x, 1, stdin) != 1) return 2;
  const void* in[] = {x};
  void* out[] = {y};
  if (rta_model_step(model, in, out, 3) != 0) return 3;
  fwrite(y, sizeof y, 1, stdout);
  FILE* status = fopen("/proc/self/status", "r");
  char line[256];
  while (status && fgets(line, sizeof line, status))
    if (line[0] == 'V') fputs(line, stderr);
  rta_model_close(model);
  return 0;
}
"""

# A program in C++ beside it keeps its own operator new, and its own exceptions.
BESIDE = """
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <vector>
#include "policy.h"
static int made = 0;
void* operator new(size_t bytes) { ++made; return std::malloc(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
static unsigned char memory[POLICY_MEMORY_BYTES];
int main() {
  const int before = made;
  rta_model* model = policy_open(memory, sizeof memory);
  if (!model || made != before) return 1;
  std::vector<int> own(1000, 1);
  if (made == before) return 2;
  try {
    own.at(1000) = 1;
    return 3;
  } catch (const std::out_of_range&) {
  }
  if (policy_open(memory, 100) || rta_error_code() != RTA_CANNOT_READ) return 4;
  return 0;
}
"""


def linked(source: Path, folder: Path, target: Path, *flags: str, compiler: str = "cc") -> None:
    command = [compiler, *flags, "-O1", f"-I{folder}", str(source), f"-L{folder}", "-lpolicy", "-Wl,--gc-sections"]
    done = subprocess.run([*command, "-lm", "-s", "-o", str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def given(program: Path, x: bytes, *arguments: Path) -> bytes:
    done = subprocess.run([program, *arguments], input=x, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


IN_PYTHON = """
import sys, numpy as np, rtaccel as rt
model = rt.load(sys.argv[1])
for call in np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(*map(int, sys.argv[2:])):
    sys.stdout.buffer.write(model(call).tobytes())
"""


def in_python(file: Path, calls: torch.Tensor) -> bytes:
    """float32 [calls, batch, ...] -> the bytes of the results, by the kernels of the set that is packed. This CPU may have better
    ones, which add in another order."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PYTHON, file, *map(str, calls.shape)], input=calls.numpy().tobytes(),
        capture_output=True, check=True, env={**os.environ, settings.CPU_ISA: BEST},
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def packed(model: tuple[Path, np.ndarray, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    told = pack(model[0], folder, [BEST], embed=True)
    assert told.measured
    assert all(kernel.endswith(BEST) for _, kernel in told.kernels)
    assert sum(size for _, size in told.sections) <= told.program_bytes
    assert told.program_bytes < 120_000 or BEST != "avx2"
    return folder


def test_one_model(model: tuple[Path, np.ndarray, bytes], packed: Path, tmp_path: Path) -> None:
    file, x, want = model
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    linked(tmp_path / "embedded.c", packed, tmp_path / "embedded")
    assert given(tmp_path / "embedded", x.tobytes()) == want
    if BEST == "avx2":
        assert (tmp_path / "embedded").stat().st_size <= 120_000
    if Path("/proc/self/status").exists():  # with a loaded model that has made a step
        done = subprocess.run([tmp_path / "embedded"], input=x.tobytes(), capture_output=True, check=True)
        (peak,) = [int(line.split()[1]) for line in done.stderr.decode().splitlines() if line.startswith("VmHWM")]
        assert peak <= 4096

    linked(HERE / "program.c", packed, tmp_path / "program")
    (tmp_path / "x").write_bytes(x.tobytes())
    command = [tmp_path / "program", file, "3", "1", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stdout == want, done.stderr


@pytest.mark.parametrize(
    ("net", "shape", "why"),
    [
        (nn.Conv1d(3, 4, 3), (1, 3, 9), b"here (this build has none)"),
        (nn.Linear(24, 20), (1, 24), b"weights of dtype float32, for which this was not built"),
    ],
)
def test_another_model_is_refused(
    packed: Path, tmp_path: Path, net: nn.Module, shape: tuple[int, ...], why: bytes
) -> None:
    linked(HERE / "program.c", packed, tmp_path / "program")
    other = rt.save(rt.compile(net.eval(), torch.randn(shape)), tmp_path / "other.rta")
    (tmp_path / "x").write_bytes(bytes(4 * int(np.prod(shape))))
    command = [tmp_path / "program", other, "1", "1", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert why in done.stderr


def test_tiles_that_were_left_out(packed: Path, tmp_path: Path) -> None:
    net, batches = nn.Linear(24, 33).eval(), [torch.randn(64, 24)]
    other = rt.save(rt.compile(net, torch.randn(1, 24), "w8a8", calibration=batches), tmp_path / "other.rta")
    linked(HERE / "program.c", packed, tmp_path / "program")
    (tmp_path / "x").write_bytes(bytes(96))
    done = subprocess.run([tmp_path / "program", other, "1", "1", tmp_path / "x"], capture_output=True, check=False)
    if "33 outputs" not in done.stderr.decode():  # sets with one lane need no other tile
        assert BEST == "portable"


def test_memory_of_the_caller(model: tuple[Path, np.ndarray, bytes], packed: Path, tmp_path: Path) -> None:
    file, x, want = model
    fast = compiled(1)
    other = rt.save(fast, tmp_path / "other.rta")
    swapped = fast(torch.from_numpy(x)).numpy().tobytes()
    assert swapped != want
    linked(HERE / "packed.c", packed, tmp_path / "packed", "-include", str(packed / "policy.h"), "-Werror", "-Wall")
    assert given(tmp_path / "packed", x.tobytes(), file, other) == 4 * (want + 3 * (swapped + want) + 2 * want)

    (tmp_path / "beside.cc").write_text(BESIDE)
    linked(tmp_path / "beside.cc", packed, tmp_path / "beside", compiler="c++")
    given(tmp_path / "beside", b"")


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_nothing_of_cxx_is_asked_for(packed: Path) -> None:
    said = subprocess.run(["nm", "-u", packed / "libpolicy.a"], capture_output=True, text=True, check=True).stdout
    asked = {line.split()[-1].split("@")[0] for line in said.splitlines() if line.startswith(" ")}
    assert not [name for name in asked if name.startswith(("_Z", "__cxa", "__gxx", "_Unwind"))]
    assert not asked & {"malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign"}
    shown = subprocess.run(
        ["nm", "--extern-only", "--defined-only", packed / "libpolicy.a"], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1] for line in shown.splitlines() if len(line.split()) == 3]
    assert names
    assert all(name.startswith("rta_") or name == "policy_model" for name in names)


def every_format() -> CompiledModel:
    torch.manual_seed(2)
    schemes = [rt.Float32(), rt.W8A8(), rt.W8A16(), rt.W4A16(), rt.W4A8(), rt.BFloat16(), rt.W8A8("dynamic")]
    layers = [part for _ in schemes for part in (nn.Linear(40, 40), nn.GELU(), nn.LayerNorm(40))]
    scheme = {str(3 * i): s for i, s in enumerate(schemes)}
    return rt.compile(nn.Sequential(*layers).eval(), torch.randn(1, 40), scheme, calibration=[torch.randn(128, 40)])


@pytest.mark.turns(7)
@pytest.mark.skipif("amx" not in HAS, reason="this CPU does not have amx")
def test_tiles_come_with_the_kernels_that_take_the_rest(model: tuple[Path, np.ndarray, bytes], tmp_path: Path) -> None:
    file, x, want = model
    packed = pack(file, tmp_path / "amx", ["amx"], name="policy", embed=True)
    assert [kernel for _, kernel in packed.kernels if kernel.startswith("cpu_amx")]
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    linked(tmp_path / "embedded.c", tmp_path / "amx", tmp_path / "embedded")
    done = subprocess.run([str(tmp_path / "embedded")], input=x.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == want


CROSS = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "qemu-aarch64")


@pytest.mark.skipif(not all(map(shutil.which, CROSS)), reason=f"not all of {', '.join(CROSS)} are here")
def test_for_another_processor(model: tuple[Path, np.ndarray, bytes], tmp_path: Path) -> None:
    file, x, want = model
    toolchain = HERE.parents[1] / "cmake" / "aarch64-linux-gnu.cmake"
    pack(file, tmp_path / "arm", ["neon", "neondot"], name="policy", embed=True, toolchain=toolchain)
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    flags = [
        "-O1",
        f"-I{tmp_path / 'arm'}",
        str(tmp_path / "embedded.c"),
        f"-L{tmp_path / 'arm'}",
        "-lpolicy",
    ]
    command = ["aarch64-linux-gnu-gcc", *flags, "-Wl,--gc-sections", "-lm"]
    done = subprocess.run([*command, "-o", tmp_path / "embedded"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for cpu in ("cortex-a53", "cortex-a76"):
        run = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, str(tmp_path / "embedded")]
        done = subprocess.run(run, input=x.tobytes(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == want


def test_what_cannot_be_packed(model: tuple[Path, np.ndarray, bytes], tmp_path: Path) -> None:
    file, *_ = model
    with pytest.raises(rt.UnsupportedProblem, match="avx1024"):
        pack(file, tmp_path / "out", ["avx1024"])
    with pytest.raises(rt.UnsupportedProblem, match="one processor"):
        pack(file, tmp_path / "out", ["avx2", "neon"])
    with pytest.raises(rt.FormatError, match="identifier of C"):
        pack(file, tmp_path / "out", [BEST], name="1st policy")
    with pytest.raises(rt.FormatError, match="load: got"):
        pack(tmp_path / "missing.rta", tmp_path / "out", [BEST])
    with pytest.raises(rt.BackendUnavailable, match="no-such-compiler"):
        pack(file, tmp_path / "out", [BEST], compiler="/no-such-compiler")

"""The kernel in CUDA C++: compiled without a GPU by NVRTC, and by nvcc where it is, and its machine code looked at."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels._gpu.cubin_store import CubinStore
from rtaccel.kernels._gpu.cuda_nvrtc import ECHO, CudaKernel, compile_cubin
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels._persistent.null import null_kernel
from rtaccel.kernels.mlp.cuda import kernel as chains
from rtaccel.kernels.recurrent.cuda import kernel as stacks
from rtaccel.kernels.recurrent.cuda import window as windows
from rtaccel.kernels.recurrent.cuda.float32 import layer as layers

needs_tools = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton has the disassembler")


def compiled(capability: int, kernel: CudaKernel = ECHO):
    try:
        return compile_cubin(kernel, capability)
    except BackendUnavailable as error:
        pytest.skip(str(error))


def check_code(code: bytes) -> None:
    """Every lane polls and answers for itself: loads and stores of system scope, neither fence nor barrier nor shuffle."""
    from rtaccel.kernels._gpu.triton_aot import read_cubin
    from rtaccel.kernels._gpu.triton_spec import SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE

    found = read_cubin(code, 0)
    assert (found.stack_bytes, found.local_bytes, found.spills, found.barriers) == (0, 0, 0, 0)
    assert found.registers <= 32
    for pattern in (SYSTEM_LOAD.replace(r"\.", r"\.(E\.)?64", 1), SYSTEM_STORE.replace(r"\.", r"\.(E\.)?64", 1)):
        assert found.count(pattern), pattern
    assert found.count(SYSTEM_FENCE) == found.count("SHFL|LDS|STS|MEMBAR|FFMA") == 0


@needs_tools
@pytest.mark.parametrize("capability", [80, 89, 90, 100, 120])
def test_the_echo_by_nvrtc(capability: int, tmp_path: Path) -> None:
    cubin = compiled(capability)
    check_code(cubin.code)
    store = CubinStore(tmp_path)
    store.put(cubin)
    assert store.find(ECHO.key, capability) == cubin


@needs_tools
def test_parameters_are_those_of_every_stored_kernel(tmp_path: Path) -> None:
    import triton

    path = tmp_path / "echo.cubin"
    path.write_bytes(compiled(90).code)
    text = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-elf", str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert len(re.findall("EIATTR_KPARAM_INFO", text)) == len(ECHO.parameters) + 2


@needs_tools
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
def test_the_echo_by_nvcc(tmp_path: Path) -> None:
    source, out = cuda_nvrtc.FOLDER / ECHO.file, tmp_path / "echo.cubin"
    command = ["nvcc", "-std=c++17", "-fmad=false", "-cubin", "-arch=sm_90", "-o", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_code(out.read_bytes())


def test_what_does_not_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match="sm_12345"):
        compiled(12345)
    broken = tmp_path / "broken.cu"
    broken.write_text("__global__ void f() { nonsense; }")
    with pytest.raises(FormatError, match="nonsense"):
        compiled(90, CudaKernel(str(broken), "f", (), 1))
    monkeypatch.setattr(cuda_nvrtc, "unavailable", lambda: "cuda.core is not installed")
    with pytest.raises(BackendUnavailable, match=r"cuda\.core is not installed"):
        compile_cubin(ECHO, 90)


def test_another_source_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ECHO.key
    monkeypatch.setattr(CudaKernel, "source", "void f() {}")
    assert ECHO.key != before


def included(name: str) -> set[str]:
    """Files of this package that one includes, by way of others too."""
    text = (cuda_nvrtc.FOLDER / name).read_text()
    found = {n for n in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE) if "/" in n}
    return found.union(*map(included, found))


def test_every_included_file_is_in_the_key_of_its_kernel() -> None:
    """Else a kernel in the store would be one of an older source."""
    card = Card(90)
    kernels = [
        ECHO, null_kernel(), *(stacks.declared(name, card)[1] for name in stacks.DECLARED),
        *(chains.declared(name, card)[1] for name in chains.DECLARED),  # type: ignore[index]
        *(windows.declared(name, card).kernel for name in windows.DECLARED),  # type: ignore[union-attr]
        *(layers.declared(name, card).kernel for name in layers.DECLARED),  # type: ignore[union-attr]
    ]  # fmt: skip
    assert {k.file for k in kernels} == {str(f.relative_to(cuda_nvrtc.FOLDER)) for f in cuda_nvrtc.FOLDER.rglob("*.cu")}
    for kernel in kernels:
        missing = included(kernel.file) - set(kernel.includes)
        assert kernel is ECHO or not missing, (kernel.name, missing)

"""Every kernel in CUDA C++ by nvcc, with what stands in its file.

NVRTC takes what nvcc does not. For NVRTC all code is the device's; nvcc has a host as well, whose arrays a device may not read.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rtaccel.kernels._gpu.cuda_nvrtc import FOLDER

SOURCES = sorted(FOLDER.rglob("*.cu"))
NVCC = shutil.which("nvcc")

needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not here")


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def built(source: Path, folder: Path, include: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    out = str(folder / "kernel.cubin")
    return ran(
        [str(NVCC), "-std=c++17", "-fmad=false", "-I", str(include), "-cubin", "-arch=sm_90", "-o", out, str(source)]
    )


def test_the_kernels_are_found() -> None:
    assert {"cuda_echo", "recurrent", "window", "chain"} <= {source.stem for source in SOURCES}


@needs_nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.relative_to(FOLDER).as_posix())
def test_nvcc_compiles_what_stands_in_the_file(source: Path, tmp_path: Path) -> None:
    done = built(source, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "kernel.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "warning" not in done.stderr, done.stderr


@needs_nvcc
def test_an_array_of_the_host_that_a_device_reads_is_refused(tmp_path: Path) -> None:
    """What NVRTC takes: so only nvcc sees it."""
    chain = (FOLDER / "mlp/cuda/chain.cu").read_text()
    broken = chain.replace("if (step < own) return", "if (step < kKept[layer]) return")
    assert broken != chain
    (tmp_path / "chain.cu").write_text(broken)
    done = built(tmp_path / "chain.cu", tmp_path)
    assert done.returncode != 0
    assert "kKept" in done.stdout + done.stderr

"""What goes wrong between a C program and its driver: each has its own message, and nothing hangs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rtaccel.kernels._gpu import cuda_nvrtc
from tests.cuda_checks import on_host
from tests.gpu.from_c.conftest import Machine
from tests.gpu.from_c.test_gpu_from_c import DEVICE_FAILED, NO_ANSWER, NO_DEVICE, NO_KERNEL, NO_ROOM, STEP

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent kernels need triton"),
    pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]


def test_without_a_driver(file: Path, machine: Machine) -> None:
    (machine.folder / "driver" / "libcuda.so.1").unlink()
    stored, (code, text) = machine.calls(["stored", str(file)], ["open", "a", str(file)])
    assert stored == [90] and code == NO_DEVICE and "driver is not here: libcuda.so.1" in text


@pytest.mark.parametrize(
    ("card", "device", "code", "text"),
    [
        ("80,108,166912", 0, NO_KERNEL, "kernels for sm_90, and this device is sm_80"),
        ("100,148,232448", 0, NO_KERNEL, "kernels for sm_90, and this device is sm_100"),
        ("90,132,100", 0, NO_KERNEL, "this device is sm_90"),
        ("90,0,232448", 0, NO_ROOM, "wants 1 multiprocessors of 0"),
        ("90,132,232448,8,1", 0, NO_DEVICE, "drives a display"),
        ("90,132,232448", 1, NO_DEVICE, "device 1 of 1"),
        ("90,132,232448", -1, NO_DEVICE, "device -1 of 1"),
    ],
)
def test_other_devices(card: str, device: int, code: int, text: str, file: Path, machine: Machine) -> None:
    (found,) = machine.calls(["open", "a", str(file), None, device], STAND_IN_CARD=card)
    assert found[0] == code and text in found[1]
    assert machine.launches == [] and "left: 0 0 0 0 0" in machine.said


@pytest.mark.parametrize(
    "call",
    [
        "cuInit", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncLoad",
        "cuStreamCreate", "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2", "cuMemcpyHtoDAsync_v2",
    ],
)  # fmt: skip
def test_what_the_driver_refuses(call: str, file: Path, machine: Machine) -> None:
    """Says which call it was, and nothing is left of what was there before it."""
    (found,) = machine.calls(["open", "a", str(file)], STAND_IN_FAILS=call)
    assert found[0] == (NO_DEVICE if call == "cuInit" else DEVICE_FAILED)
    assert call.removesuffix("_v2") in found[1] and "CUDA_ERROR" in found[1]
    assert "left: 0 0 0 0 0" in machine.said


def test_a_launch_that_is_refused(file: Path, machine: Machine) -> None:
    commands = (["open", "a", str(file)], ["step", "a", STEP], ["start", "a"], ["close", "a"])
    _, *found, _ = machine.calls(*commands, STAND_IN_FAILS="cuLaunchKernel")
    assert [code for code, _ in found] == [DEVICE_FAILED] * 2 and "cuLaunchKernel" in found[0][1]
    assert "left: 0 0 0 0 0" in machine.said


def test_a_kernel_that_gives_no_answer(file: Path, machine: Machine) -> None:
    """It is told to end, and does. Later calls say the same."""
    commands = (
        ["open", "a", str(file)],
        ["step", "a", STEP, 50_000_000],
        ["step", "a", STEP],
        ["start", "a"],
        ["close", "a"],
    )
    _, *found, _ = machine.calls(*commands, STAND_IN_FAILS="!mute")
    assert [code for code, _ in found] == [NO_ANSWER] * 3 and "gave no answer" in found[0][1]
    assert "left: 0 0 0 0 0" in machine.said


def test_a_kernel_that_ends_by_a_fault(file: Path, machine: Machine) -> None:
    _, found, _ = machine.calls(["open", "a", str(file)], ["step", "a", STEP], ["close", "a"], STAND_IN_FAILS="!fault")
    assert found[0] == NO_ANSWER and "did not start: the kernel gave 719, CUDA_ERROR_LAUNCH_FAILED" in found[1]


@pytest.mark.turns(3)
def test_a_kernel_that_does_not_end(file: Path, machine: Machine) -> None:
    """Nothing that it may still read is given back, and no code is loaded beside it."""
    commands = (["open", "a", str(file)], ["step", "a", STEP, 50_000_000], ["close", "a"], ["open", "b", str(file)])
    _, found, _, other = machine.calls(*commands, STAND_IN_FAILS="!deaf")
    assert found[0] == NO_ANSWER and "did not end when it was told to" in found[1]
    assert other[0] == NO_ROOM
    assert "running: 1" in machine.said and "left: 0" not in machine.said


def test_more_kernels_than_queues(file: Path, machine: Machine) -> None:
    commands = [["open", str(i), str(file)] for i in range(4)]
    *fine, last = machine.calls(*commands, CUDA_DEVICE_MAX_CONNECTIONS="4")
    assert all(isinstance(about, dict) for about in fine) and len(fine) == 3
    assert last[0] == NO_ROOM and "CUDA_DEVICE_MAX_CONNECTIONS" in last[1]

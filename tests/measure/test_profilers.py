"""What other profilers write, read into one table; their command lines, with programs that stand in for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.cli._profile import job, kernels, ncu, nsys, proton, torch_profiler
from rtaccel.cli._profile.job import Job
from rtaccel.cli._profile.kernels import KernelTime
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError, UnsupportedProblem

NSYS = """Generating SQLite file calls.sqlite from calls.nsys-rep
Processing [calls.sqlite] with [cuda_gpu_kern_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
25.0,40000,10,4000.0,3900.0,3500,6000,700.0,"void copy<float, 4>(float *, int)"
75.0,120000,20,6000.0,5900.0,5000,9000,900.0,gemv_kernel

"""

NCU = """==PROF== Connected to process 11 (/usr/bin/python3)
==PROF== Profiling "gemv_kernel" - 0: 0%....50%....100% - 3 passes
"ID","Process ID","Kernel Name","Context","Stream","Section Name","Metric Name","Metric Unit","Metric Value"
"0","11","gemv_kernel","1","7","Command line profiler metrics","gpu__time_duration.sum","ns","2,500"
"0","11","gemv_kernel","1","7","Command line profiler metrics","dram__bytes.sum","Kbyte","1,024"
"0","11","gemv_kernel","1","7","Command line profiler metrics","launch__registers_per_thread","register/thread","40"
"1","11","gemv_kernel","1","7","Command line profiler metrics","gpu__time_duration.sum","us","3.5"
"1","11","gemv_kernel","1","7","Command line profiler metrics","dram__bytes.sum","Mbyte","2.048"
"1","11","gemv_kernel","1","7","Command line profiler metrics","launch__registers_per_thread","register/thread","40"
"2","11","void f(int, int)","1","7","Command line profiler metrics","gpu__time_duration.sum","usecond","1"
"2","11","void f(int, int)","1","7","Command line profiler metrics","dram__bytes.sum","","n/a"
==PROF== Disconnected from process 11
"""

HATCHET = [
    {
        "frame": {"name": "ROOT", "type": "function"},
        "metrics": {},
        "children": [
            {
                "frame": {"name": "layer", "type": "function"},
                "metrics": {},
                "children": [
                    {
                        "frame": {"name": "gemv_kernel", "type": "function"},
                        "metrics": {"time (ns)": 6000, "count": 2, "device_id": "0"},
                        "children": [],
                    }
                ],
            },
            {
                "frame": {"name": "gemv_kernel", "type": "function"},
                "metrics": {"time (ns)": 1000, "count": 1},
                "children": [],
            },
        ],
    },
    {"CUDA": {"0": {"arch": "90", "num_sms": 132}}},
]


def test_nsys_summary() -> None:
    first, second = nsys.parse(NSYS)
    assert first == KernelTime("gemv_kernel", 20, 120.0, 5.0, 9.0, {"median us": 5.9})
    assert (second.name, second.mean_us) == ("void copy<float, 4>(float *, int)", 4.0)


@pytest.mark.parametrize("text", ["", "Processing...\nSKIPPED: calls.sqlite does not contain CUDA kernel data.\n"])
def test_nsys_without_kernels_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="cuda_gpu_kern_sum"):
        nsys.parse(text)


def test_ncu_launches_of_a_kernel_are_one_row() -> None:
    first, second = ncu.parse(NCU)
    assert (first.name, first.calls, first.total_us, first.min_us, first.max_us) == ("gemv_kernel", 2, 6.0, 2.5, 3.5)
    assert first.extra == {"DRAM bytes": pytest.approx(1_536_000), "registers": 40}
    assert second == KernelTime("void f(int, int)", 1, 1.0, 1.0, 1.0, {})


def test_ncu_without_a_table_or_a_duration_is_refused() -> None:
    with pytest.raises(FormatError, match="ERR_NVGPUCTRPERM"):
        ncu.parse("==ERROR== ERR_NVGPUCTRPERM - no permission\n")
    head, row = NCU.splitlines()[2], NCU.splitlines()[4]
    with pytest.raises(FormatError, match="duration"):
        ncu.parse(f"{head}\n{row}\n")


def test_proton_tree() -> None:
    assert proton.parse(json.dumps(HATCHET)) == [KernelTime("gemv_kernel", 3, 7.0)]
    with pytest.raises(FormatError, match="without times"):
        proton.parse(json.dumps(HATCHET[1:]))
    with pytest.raises(FormatError, match="no JSON"):
        proton.parse("{")


def test_torch_events_prefer_the_device() -> None:
    def event(key: str, cpu: float, device: float, kind: str) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, count=2, self_cpu_time_total=cpu, self_device_time_total=device, device_type=f"DeviceType.{kind}"
        )

    events = [event("aten::mm", 9, 0, "CPU"), event("gemm", 0, 4, "CUDA"), event("aten::empty", 0, 0, "CPU")]
    assert torch_profiler.parse(events) == [KernelTime("gemm", 2, 4.0)]
    assert torch_profiler.parse(events[::2]) == [KernelTime("aten::mm", 2, 9.0)]


def compiled_portable() -> tuple[rt.CompiledModel, tuple[torch.Tensor, ...]]:
    x = torch.randn(2, 8)
    return rt.compile(nn.Linear(8, 8).eval(), (x,), backend="portable"), (x,)  # type: ignore[return-value]


def test_torch_profiler_runs_here(tmp_path: Path) -> None:
    fast, inputs = compiled_portable()
    found = torch_profiler.run(Job((), fast, inputs, 6, tmp_path))
    row = next(kernel for kernel in found if kernel.name in ("aten::addmm", "aten::mm", "aten::linear"))
    assert row.calls == 6
    assert row.total_us > 0


def test_table_and_merging() -> None:
    merged = kernels.merged(
        [KernelTime("a", 1, 2.0, 2.0, 2.0, {"x": 1.0}), KernelTime("a", 3, 9.0, 1.0, 5.0, {"x": 5.0})]
    )
    assert merged == [KernelTime("a", 4, 11.0, 1.0, 5.0, {"x": 4.0})]
    text = kernels.table([*merged, KernelTime("n" * 80, 1, 11.0)])
    assert "50.0 %" in text
    assert "…" in text
    assert kernels.as_json(merged)[0]["mean_us"] == 2.75


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nsys and ncu that write down how they were called, and write what the real ones would. There is a card, they say."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nsys.txt").write_text(NSYS)
    (folder / "ncu.txt").write_text(NCU)
    script = f'#!/bin/sh\necho "$@" >> {folder}/calls\n'
    (folder / "nsys").write_text(script + f'[ "$1" = stats ] && cat {folder}/nsys.txt\nexit 0\n')
    (folder / "ncu").write_text(script + f'while [ "$1" != --log-file ]; do shift; done\ncp {folder}/ncu.txt "$2"\n')
    for name in ("nsys", "ncu"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for module in (nsys, ncu):
        monkeypatch.setattr(module, "no_cuda", lambda tool: None)
    return folder


@pytest.mark.parametrize(("module", "expected"), [(nsys, 20), (ncu, 2)])
def test_commands_of_nsys_and_ncu(module: object, expected: int, programs: Path, tmp_path: Path) -> None:
    assert module.unavailable() is None  # type: ignore[attr-defined]
    found = module.run(Job(("nets.py:policy", "--scheme", "w8a8"), None, (), 7, tmp_path))  # type: ignore[attr-defined]
    assert found[0].calls == expected
    said = (programs / "calls").read_text()
    assert "-m rtaccel.cli._profile.loop nets.py:policy --scheme w8a8 --calls 7" in said


def test_a_program_that_fails_is_told(programs: Path, tmp_path: Path) -> None:
    (programs / "nsys").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 3\n")
    with pytest.raises(UnsupportedProblem, match=r"exit code 3[\s\S]*no space left"):
        nsys.run(Job((), None, (), 1, tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["nsys", "ncu", "proton"])
def test_what_cannot_run_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["profile", "no/such/file.py:net", "--with", name]) == 2
    said = capsys.readouterr().err
    assert "not on the PATH" in said or "no CUDA device" in said or "not installed" in said
    assert job.no_cuda("it") is not None

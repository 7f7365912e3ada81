"""A machine with NVIDIA's driver and nothing else: the driver is one that stands in for it (driver_stand_in.cc), and runs the
kernels of a file as they are built for a CPU."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import rtaccel as rt
import rtaccel._native
from rtaccel.kernels._gpu.cubin_store import Cubin
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels.recurrent.cuda import choice as cuda_choice
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import ahead, persistent_choice, persistent_stacks
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks import on_host
from tests.cuda_checks.streams import CASES, Partition, layout_of
from tests.support import kept

LIBRARY = Path(str(rtaccel._native.__file__)).parent / "librtaccel.so"
BYTES = {"i32": 4, "u32": 4, "fp32": 4, "i64": 8}
CALLS = Path(__file__).parent / "c_calls.py"


def stand_in() -> Path:
    source = on_host.HERE / "driver_stand_in.cc"
    command = [on_host.COMPILER, "-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", "-pthread", str(source), "-ldl"]
    return kept.compiled_by(command, [source], "driver.so")


@dataclass
class Machine:
    """code: a folder of kernels as the driver finds them. said: of the last process, on stderr."""

    folder: Path
    code: Path
    said: str = ""

    @property
    def launches(self) -> list[str]:
        """Of each: the name of the file of its kernel, and its blocks."""
        found = sorted((self.folder / "launches").iterdir(), key=lambda path: int(path.name))
        return [Path(path.read_text().split()[0]).name + " " + path.read_text().split()[1] for path in found]

    def environment(self, **more: str) -> dict[str, str]:
        (self.folder / "launches").mkdir(exist_ok=True)
        path = os.pathsep.join([str(self.folder / "driver"), os.environ.get("LD_LIBRARY_PATH", "")])
        own = {
            "STAND_IN_CODE": str(self.code),
            "STAND_IN_KEEPS": str(self.folder / "launches"),
            "LD_LIBRARY_PATH": path,
        }
        return {**os.environ, **own, **more}

    def run(self, command: Sequence[object], given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(part) for part in command], input=given, capture_output=True, text=True, check=False, timeout=300,
            env=self.environment(**more),
        )  # fmt: skip
        self.said = done.stderr
        return done

    def calls(self, *commands: Sequence[Any], **more: str) -> list[Any]:
        """What each call of c_calls.py gave."""
        done = self.run([sys.executable, "-S", CALLS, LIBRARY], json.dumps(commands), **more)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "libcuda.so.1").symlink_to(stand_in())
    (tmp_path / "code").mkdir()
    return Machine(tmp_path, tmp_path / "code")


Save = Callable[..., Path]


@pytest.fixture
def save(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Save:
    """save(model, cards): a file with its persistent kernels, which the driver of the machine can run."""
    build, number = ahead.build, itertools.count()

    def built(kernel: Any, capability: int) -> Cubin:
        cubin = build(kernel, capability)
        stem = machine.code / f"{next(number)}-sm_{capability}"
        stem.with_suffix(".cubin").write_bytes(cubin.code)
        sizes = [BYTES.get(kind, 8) for _, kind in cubin.parameters] + [8, 8]
        stem.with_suffix(".sizes").write_text(" ".join([cubin.entry, *map(str, sizes)]))
        assert isinstance(kernel, CudaKernel)
        stem.with_suffix(".so").symlink_to(on_host.build(kernel, "kernel.so", "-shared", "-fPIC"))
        return cubin

    monkeypatch.setattr(ahead, "build", built)

    def saved(
        model: CompiledModel, cards: Sequence[str] = ("sm_90",), name: str = "model.rta", **keywords: Any
    ) -> Path:
        return rt.save(model, machine.folder / name, persistent=cards, **keywords)

    return saved


def stream_of(case: str) -> tuple[StreamModel, Partition]:
    make, features, scheme, partition = CASES[case]
    torch.manual_seed(features)
    calibration = [torch.randn(8, 5, features)]
    return rt.stream(make().eval(), torch.randn(1, features), scheme=scheme, calibration=calibration), partition


def small() -> StreamModel:
    return stream_of("lstm-one-program")[0]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    """cut(partition): forms of streams are of this cut; where a device has no room for a cluster, the same through L2."""

    def put(partition: Partition) -> None:
        def form(*arguments: Any) -> Any:
            card = arguments[-1]
            return layout_of(partition._replace(cluster=partition.cluster and card.has_clusters))(*arguments)

        monkeypatch.setattr(cuda_choice, "select_config", form)

    with persistent_choice.only(persistent_stacks.CUDA):
        yield put


@pytest.fixture
def file(cut: Any, machine: Machine, save: Save) -> Path:
    cut(CASES["lstm-one-program"][3])
    return save(small())

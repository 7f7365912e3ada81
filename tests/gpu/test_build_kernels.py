"""Kernels built ahead: the command, the store, what a launch passes, and what happens where one is missing."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rtaccel.cli.main import main
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError
from rtaccel.kernels._gpu import cubin_launch
from rtaccel.kernels._gpu.cubin_store import Cubin, CubinStore, key_of
from rtaccel.kernels.linear import contract

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)
if settings.triton_interpret():
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, there is nothing to build", allow_module_level=True)

MODEL = """
import torch
from torch import nn
class Twice(nn.Module):  # two results: a launch looks for a NaN
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 10)
    def forward(self, x):
        h = nn.functional.gelu(self.a(x))
        return self.b(h), self.c(h)
def make():
    return Twice().eval(), (torch.randn(1, 64),), [torch.randn(32, 64)]
def wrong():
    return 3
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kernels of a small W8A8 network for sm_90, built once by the command."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "network_of_test.py").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        code = main(["build-kernels", "network_of_test.py:make", "--arch", "sm_90", "--out", "kernels"])
        assert code == 0
        yield folder / "kernels"


def test_the_command_builds_each_kernel_once(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [c.name for c in CubinStore(built)]
    for start in ("fused_gemv_M1_int8_static_N32_K64", "linear_gemv_M1_N10_K32", "propagate_nan"):
        assert sum(name.startswith(start) for name in names) == 1, names
    words = ["build-kernels", "--arch", "sm_90", "--model", "network_of_test:make", "--out", str(built), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["kernels"]) == len(names)
    assert all(k["was_there"] and k["arch"] == "sm_90" for k in found["kernels"])


def test_wrong_words_are_named(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--arch", "sm_75"], "sm_75"),
        (["--arch", ","], "at least one"),
        (["--model", "network_of_test:wrong"], "gives int"),
        (["--model", "network_of_test:absent"], "absent"),
        (["network_of_test.py:absent"], "absent"),
        (["network_of_test:make", "--model", "network_of_test:make"], "one target"),
        (["--model", "no_such_module_here:make"], "no_such_module_here"),
    ):
        assert main(["build-kernels", *words, "--out", str(built)]) == 2
        assert said in capsys.readouterr().err


def test_the_parameters_of_the_code_are_those_of_the_record(built: Path) -> None:
    """The cubin itself says how many parameters its function takes: ours, and two pointers to scratch memory."""
    import triton

    for cubin in CubinStore(built):
        path = built / f"sm_90-{cubin.key}.cubin"
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-elf", str(path)], capture_output=True, text=True, check=True).stdout
        assert len(re.findall("EIATTR_KPARAM_INFO", text)) == len(cubin.parameters) + 2, cubin.name
        assert cubin.global_scratch_bytes == cubin.profile_scratch_bytes == 0
        assert cubin.parameters[0][0] == "x_ptr"


def test_a_changed_file_is_refused(built: Path, tmp_path: Path) -> None:
    (cubin, *_) = CubinStore(built)
    store = CubinStore(tmp_path)
    store.put(cubin)
    assert store.find(cubin.key, 90) == cubin
    assert store.find("0" * 32, 90) is None
    code, about = next(tmp_path.glob("*.cubin")), next(tmp_path.glob("*.json"))
    code.write_bytes(cubin.code[:-1] + bytes([cubin.code[-1] ^ 1]))
    with pytest.raises(FormatError, match="does not describe"):
        store.find(cubin.key, 90)
    about.write_text("{}")
    with pytest.raises(FormatError, match="build-kernels"):
        store.find(cubin.key, 90)


def small(capability: int) -> Cubin:
    parameters = (("x_ptr", "*i8"), ("rows", "i32"), ("scale", "fp32"))
    return Cubin("k" * 32, capability, "small", "entry", parameters, 4, 1024, 0, 0, False, "triton 0", b"code")


def test_which_cards_a_cubin_runs_on(tmp_path: Path) -> None:
    store = CubinStore(tmp_path)
    for capability in (80, 86, 90):
        store.put(small(capability))
    found = {c: store.find("k" * 32, c) for c in (80, 86, 87, 89, 90, 100, 120)}
    assert {c: f and f.capability for c, f in found.items()} == {
        80: 80, 86: 86, 87: 86, 89: 86, 90: 90, 100: None, 120: None
    }  # fmt: skip


def test_a_key_depends_on_all_that_the_code_depends_on() -> None:
    base = key_of("source", {"x": "*i8"}, {"N": 3}, {"num_warps": 4})
    assert base == key_of("source", {"x": "*i8"}, {"N": 3}, {"num_warps": 4})
    others = [
        key_of("other", {"x": "*i8"}, {"N": 3}, {"num_warps": 4}),
        key_of("source", {"x": "*i32"}, {"N": 3}, {"num_warps": 4}),
        key_of("source", {"x": "*i8"}, {"N": "3"}, {"num_warps": 4}),
        key_of("source", {"x": "*i8"}, {"N": 3}, {"num_warps": 8}),
    ]
    assert len({base, *others}) == 5


def test_what_a_launch_passes() -> None:
    x = torch.zeros(64, dtype=torch.int8)
    packed = cubin_launch.pack(small(90), {"x_ptr": x, "rows": 5, "scale": 0.1})
    kinds = [np.uint64, np.int32, np.float32, np.uint64, np.uint64]
    assert [type(v) for v in packed] == kinds
    assert packed == [x.data_ptr(), 5, np.float32(0.1), 0, 0]
    with pytest.raises(ShapeError, match="16 divides"):
        cubin_launch.pack(small(90), {"x_ptr": x[1:], "rows": 5, "scale": 0.1})


def test_cuda_core_reads_what_is_passed() -> None:
    """The argument buffer that cuda-core builds of it, byte for byte; needs no driver."""
    if cubin_launch.unavailable() is not None:
        pytest.skip(str(cubin_launch.unavailable()))
    holder = importlib.import_module("cuda.core._kernel_arg_handler")
    x = torch.zeros(64, dtype=torch.int8)
    packed = cubin_launch.pack(small(90), {"x_ptr": x, "rows": -5, "scale": 0.1})
    kept = holder.ParamHolder(tuple(packed))
    addresses = (ctypes.c_void_p * len(packed)).from_address(kept.ptr)
    types = (ctypes.c_uint64, ctypes.c_int32, ctypes.c_float, ctypes.c_uint64, ctypes.c_uint64)
    got = [t.from_address(a).value for t, a in zip(types, addresses)]
    assert got == [x.data_ptr(), -5, np.float32(0.1), 0, 0]


class FakeCore:
    """As much of cuda-core as a launch touches: notes what it is given, and runs nothing."""

    def __init__(self, arguments: int) -> None:
        self.launched: list[tuple[Any, ...]] = []
        function = SimpleNamespace(num_arguments=arguments, handle=1)
        self.ObjectCode = SimpleNamespace(
            from_cubin=lambda code, name: SimpleNamespace(get_kernel=lambda entry: function)
        )

    def Device(self, index: int) -> Any:  # noqa: N802 - cuda-core's name
        return SimpleNamespace(set_current=lambda: None)

    def LaunchConfig(self, **config: Any) -> Any:  # noqa: N802
        return config

    def launch(self, stream: Any, config: Any, function: Any, *arguments: Any) -> None:
        self.launched.append((config, arguments))


def put(core: FakeCore, patch: pytest.MonkeyPatch) -> None:
    """In the place of cuda-core, with nothing loaded yet."""
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.cuda, "set_device", lambda index: None)
    patch.setattr(cubin_launch, "_core", lambda: core)
    patch.setattr(cubin_launch, "_make_ready", lambda function, shared_bytes, cluster: None)
    patch.setattr(cubin_launch, "_loaded", {})


def test_a_stored_kernel_is_launched_without_triton(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rtaccel.core.stage import Problem
    from rtaccel.kernels.linear.triton import gemv as triton_gemv

    cubin = next(c for c in CubinStore(built) if c.name.startswith("linear_gemv_M1_N10_K32"))
    core = FakeCore(len(cubin.parameters) + 2)
    monkeypatch.setenv(settings.KERNELS, str(built))
    monkeypatch.setenv(settings.NO_JIT, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(cubin_launch, "unavailable", lambda: None)
    put(core, monkeypatch)
    stage = contract.make_stage(32, 10, "static")
    call = triton_gemv.prepare(stage, Problem.of(stage, 1))
    x = torch.zeros(3, 32, dtype=torch.int8)
    (y,) = call(x)
    ((config, arguments),) = core.launched
    assert config == {
        "grid": (3, 2), "block": 32 * cubin.num_warps, "shmem_size": cubin.shared_bytes, "is_cooperative": False
    }  # fmt: skip
    given = dict(zip((name for name, _ in cubin.parameters), arguments))
    assert (given["x_ptr"], given["y_ptr"], given["rows"]) == (x.data_ptr(), y.data_ptr(), 3)
    assert list(arguments[-2:]) == [0, 0]

    other = contract.make_stage(36, 10, "static")
    with pytest.raises(BackendUnavailable, match="built ahead") as caught:
        triton_gemv.prepare(other, Problem.of(other, 1))
    assert "linear_gemv_M1_N10_K36" in str(caught.value)
    assert "build-kernels" in str(caught.value)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    """An H100 that only says what it is, with cuda-core, and a machine without a C compiler."""
    core = FakeCore(0)
    monkeypatch.delenv(settings.KERNELS, raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name, *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(cubin_launch, "unavailable", lambda: None)
    put(core, monkeypatch)
    return core


def test_kernels_that_wheels_brought_are_found(
    built: Path, card: FakeCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folders of the namespace package `rtaccel_kernels`, as two wheels unpack them: one with a kernel, one with the rest.
    No C compiler, no JIT, and nothing in the environment but the search path of Python."""
    from rtaccel.backends.triton import unavailable
    from rtaccel.core.stage import Problem
    from rtaccel.kernels.linear.triton import gemv as triton_gemv

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert "C compiler" in (unavailable() or "")
    cubin = next(c for c in CubinStore(built) if c.name.startswith("linear_gemv_M1_N10_K32"))
    for site in ("one", "two"):
        folder = tmp_path / site / settings.KERNEL_PACKAGE
        store = CubinStore(folder)
        for each in CubinStore(built):
            if (each.key == cubin.key) == (site == "two"):
                store.put(each)
        monkeypatch.syspath_prepend(str(tmp_path / site))
    assert [f.parent.name for f in settings.kernel_folders()[:2]] == ["two", "one"]
    if importlib.util.find_spec("cuda") is not None:
        assert unavailable() is None
    monkeypatch.setenv(settings.NO_JIT, "1")
    core = FakeCore(len(cubin.parameters) + 2)
    put(core, monkeypatch)
    stage = contract.make_stage(32, 10, "static")
    triton_gemv.prepare(stage, Problem.of(stage, 1))(torch.zeros(1, 32, dtype=torch.int8))
    assert len(core.launched) == 1
    other = contract.make_stage(36, 10, "static")
    with pytest.raises(BackendUnavailable, match=r"rtaccel_kernels or .*cache"):
        triton_gemv.prepare(other, Problem.of(other, 1))


def test_a_folder_in_the_environment_is_the_only_one(card: FakeCore, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "site" / settings.KERNEL_PACKAGE).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv(settings.KERNELS, str(tmp_path / "mine"))
    assert settings.kernel_folders() == [tmp_path / "mine"]


def test_code_with_other_parameters_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    put(FakeCore(4), monkeypatch)
    with pytest.raises(FormatError, match="4 parameters"):
        cubin_launch.load(small(90))


def test_without_cuda_core_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "cuda-core is not installed" in (cubin_launch.unavailable() or "")

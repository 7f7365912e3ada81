"""The recurrent kernel in CUDA C++ as machine code, held to its budgets; how its form is found; when rt.stream takes it."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.cli.main import main
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem
from rtaccel.core.stage import Stage
from rtaccel.kernels._gpu import cubin_launch, cuda_launch, cuda_nvrtc
from rtaccel.kernels._gpu.cubin_store import Cubin, CubinStore
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels._persistent.card import SHARED_BYTES, Card, assuming
from rtaccel.kernels.recurrent.cuda.choice import clustering, kernel_configs, polling, select_config
from rtaccel.kernels.recurrent.cuda.config import MAX_LOOKED_AT, POLLERS, Head
from rtaccel.kernels.recurrent.cuda.kernel import FORMS, declared, kernel_of
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import config
from rtaccel.plan.fuse import fuse
from rtaccel.runtime.gpu.persistent_choice import TRITON, only
from rtaccel.runtime.gpu.persistent_stacks import CUDA, CudaStack, TritonStack, stack_network

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_nvrtc = pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")


def todays() -> Iterator[Any]:
    """LSTM_C for sm_90, and two of the other forms, others each day; tests/cuda_checks/budgets.py --check compiles all."""
    places = [(name, capability) for name in FORMS for capability in SHARED_BYTES]
    day = 2 * datetime.date.today().toordinal()
    chosen = {("lstm C int8", 90), places[day % len(places)], places[(day + 1) % len(places)]}
    yield from (pytest.param(*place, id=f"{place[0]} sm_{place[1]}") for place in sorted(chosen))


@needs_triton
@needs_nvrtc
@pytest.mark.parametrize(("name", "capability"), list(todays()))
def test_its_code_is_within_its_budget(name: str, capability: int) -> None:
    from tests.cuda_checks import budgets

    assert budgets.broken(name, capability, budgets.read()[name][str(capability)], budgets.cost(name, capability)) == []


@needs_triton
def test_the_budget_file_says_what_the_forms_are() -> None:
    from tests.cuda_checks import budgets

    written = budgets.read()
    assert set(written) == set(FORMS)
    for name, rows in written.items():
        assert set(rows) == {str(c) for c in SHARED_BYTES}
        for capability, row in rows.items():
            form, kernel = declared(name, Card(int(capability)))
            assert (row["in_registers"], row["in_shared"]) == (form.kept_bytes, form.held * form.step_bytes)
            assert row["shared"] == kernel.shared_bytes <= SHARED_BYTES[int(capability)] << 10
            assert row["registers"] <= min(65536 // form.all_threads, 255)
            assert row["in_registers"] + row["in_shared"] + row["read_again"] == form.steps * form.step_bytes


def test_lstm_c_is_on_the_chip_of_an_h100_as_a_whole() -> None:
    """30 MB of int8 weights: more than the shared memory of its multiprocessors, with 8 units of every layer in each."""
    form, _ = declared("lstm C int8", Card(90, 132))
    weights = 4 * 1000 * (500 + 7 * 1000)
    assert form.parts * form.steps * form.step_bytes >= weights
    assert form.reread_bytes == 0
    assert form.kept > 0 and form.held > 0
    small = select_config(Geometry(1000, layers=4), 500, 4, 0, Head(1, "none"), Card(89, 58))  # an L4
    assert small is not None
    assert small.reread_bytes > 0
    assert f"{small.reread_bytes:,} B read again" in small.where()
    one = select_config(Geometry(1000, layers=4), 500, 4, 0, Head(1, "none"), Card(90, 1))
    assert one is None


def test_which_forms_have_warps_that_poll() -> None:
    """Those whose weights leave room beside them on the chip, and whose messages a warp holds."""
    lstm_b = (Geometry(200, layers=3), 250, 4, 0, Head(1, "none"))
    found = select_config(*lstm_b, Card(90, 132))
    assert found is not None and found.pollers == POLLERS and found.all_threads == found.threads + 128
    with polling(0):
        without = select_config(*lstm_b, Card(90, 132))
    assert without is not None and without.pollers == 0
    assert without.shared_bytes < found.shared_bytes  # a second place for x
    lstm_a = select_config(Geometry(100, layers=2), 100, 4, 0, Head(1, "none"), Card(89, 58))
    assert lstm_a is not None and lstm_a.pollers == 0  # 99 KiB do not hold what the registers would have to leave
    for inputs, pollers in ((MAX_LOOKED_AT - 1, POLLERS), (MAX_LOOKED_AT, 0)):
        wide = select_config(Geometry(32), inputs, 4, 0, None, Card(90, 132))
        assert wide is not None and wide.pollers == pollers


def test_more_memory_reads_no_more_again() -> None:
    for hidden, inputs in ((96, 40), (333, 90), (777, 300)):
        again = []
        for multiprocessors in (8, 20, 60, 132):
            form = select_config(Geometry(hidden, layers=2), inputs, 3, 0, None, Card(90, multiprocessors))
            again.append(float("inf") if form is None else form.parts * form.reread_bytes)
            assert form is None or (form.parts <= multiprocessors and form.shared_bytes <= 227 << 10)
        assert again == sorted(again, reverse=True), hidden


@needs_nvrtc
def test_definitions_and_included_files_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = select_config(Geometry(16), 8, 4, 0, None, Card())
    other = select_config(Geometry(16), 12, 4, 0, None, Card())
    assert form is not None and other is not None
    kernel = kernel_of("lstm", form)
    assert kernel.key != kernel_of("lstm", other).key
    cubin = cuda_nvrtc.compile_cubin(kernel, 90)
    assert (cubin.shared_bytes, cubin.num_warps, cubin.cooperative) == (
        form.shared_bytes,
        form.all_threads // 32,
        False,
    )
    store = CubinStore(tmp_path)
    store.put(cubin)
    assert store.find(kernel.key, 90) == cubin
    before = kernel.key
    for name in (kernel.file, *kernel.includes):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((cuda_nvrtc.FOLDER / name).read_text())
    monkeypatch.setattr(cuda_nvrtc, "FOLDER", tmp_path)
    assert kernel.key == before
    changed = tmp_path / "recurrent/cuda/cells.h"
    changed.write_text(changed.read_text() + "\n")
    assert kernel.key != before


@needs_triton
@needs_nvrtc
def test_looks_of_a_warp_are_read_from_its_code() -> None:
    """Each look has a scoreboard, and the first test of a word waits for that of the first look at least."""
    from tests.cuda_checks import looks_in_flight

    boards, waited = looks_in_flight.looks(90)
    assert len(boards) == 2 * looks_in_flight.LOOKS and set(boards) <= set(range(6))
    assert 1 <= waited <= looks_in_flight.LOOKS


class Net(nn.Module):
    def __init__(self, stack: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stack, self.head = stack, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x)[0][:, -1])


def stages(stack: nn.Module, scheme: Any = "w8a8") -> tuple[Stage, ...]:
    features, hidden = int(stack.input_size), int(stack.hidden_size)  # type: ignore[arg-type]
    model = Net(stack, nn.Linear(hidden, 2)).eval()
    live = rt.stream(model, torch.randn(1, features), scheme=scheme, calibration=[torch.randn(4, 5, features)])
    group = live._program.steps[0].group
    return fuse(group.stages, [p.value for p in group.outputs], 1)


@pytest.fixture(scope="module")
def small() -> tuple[Stage, ...]:
    return stages(nn.LSTM(8, 200, 2, batch_first=True))


@needs_triton
def test_which_kernel_a_stream_takes(small: tuple[Stage, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in CUDA C++, and Triton's with the reason where that cannot be had."""
    reasons: list[str | None] = [None]
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: reasons[0])
    monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: True)
    taken = stack_network(small)
    assert isinstance(taken, CudaStack) and taken.line().kernel == CUDA
    assert f"not {TRITON}, which answers later" in taken.line().reasons
    monkeypatch.setattr(config, "multiprocessors", lambda: 2)
    with assuming(Card(90, 2)):
        taken = stack_network(small)
        assert isinstance(taken, CudaStack)
        assert any(f"not {TRITON}, which keeps" in reason for reason in taken.line().reasons), taken.line()
    with only(TRITON):
        assert isinstance(stack_network(small), TritonStack)
    reasons[0] = "libnvrtc cannot be loaded"
    instead = stack_network(small)
    assert isinstance(instead, TritonStack)
    assert any("libnvrtc cannot be loaded" in reason for reason in instead.line().reasons), instead.line()
    with only(CUDA), pytest.raises(BackendUnavailable, match="libnvrtc cannot be loaded"):
        stack_network(small)


@needs_triton
def test_a_cluster_is_taken_where_the_device_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It exchanges by its shared memory; else the same network through L2, with the reason."""
    of_b = stages(nn.LSTM(250, 200, 3, batch_first=True))
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: None)
    room, asked = [True], []
    monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: (asked.append(kernel), room[0])[1])
    taken = stack_network(of_b)
    assert isinstance(taken, CudaStack) and taken.config.cluster and 1 < taken.programs <= 8
    assert asked[-1].cluster == taken.programs and not asked[-1].cooperative
    assert any("they are a cluster" in reason for reason in taken.line().reasons)
    room[0] = False
    through_l2 = stack_network(of_b)
    assert isinstance(through_l2, CudaStack) and not through_l2.config.cluster and through_l2.compiled.cooperative
    assert any("not a cluster of 7 programs" in reason for reason in through_l2.line().reasons), through_l2.line()
    with assuming(Card(89, 58)):
        older = stack_network(of_b)
        assert isinstance(older, CudaStack) and not older.config.cluster
    with clustering(False):
        alone = stack_network(of_b)
        assert isinstance(alone, CudaStack) and not alone.config.cluster


def test_no_cluster_is_larger_than_the_card_has() -> None:
    """Whatever is cut: 16 blocks on an H100, 8 where no more are known, none before it."""
    for capability, most in ((80, 0), (89, 0), (90, 16), (100, 16), (120, 8)):
        assert Card(capability).cluster == most and Card(capability, has_clusters=False).cluster == 0
        for hidden, inputs in ((150, 40), (300, 90), (500, 300)):
            found = list(kernel_configs(Geometry(hidden, layers=2), inputs, 4, 0, None, Card(capability)))
            clusters = {config.parts for config in found if config.cluster}
            assert clusters == {config.parts for config in found if 1 < config.parts <= most}


@needs_triton
def test_int4_stacks_are_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: None)
    taken = stack_network(stages(nn.GRU(8, 12, batch_first=True), "w4a8"))
    assert isinstance(taken, CudaStack)
    assert (
        "not triton_persistent, which has int8 weights as a stream; windows and time steps with int4 weights run in a graph"
        in taken.line().reasons
    )
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: "libnvrtc cannot be loaded")
    with pytest.raises(BackendUnavailable, match=r"libnvrtc cannot be loaded.*rtaccel\[cuda\]"):
        stack_network(taken.stages)
    with pytest.raises(UnsupportedProblem, match="calibration"):
        stack_network(stages(nn.GRU(8, 12, batch_first=True), rt.W4A8(group_size=16, activation="static")))


@needs_triton
def test_what_is_neither_stored_nor_to_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = declared("lstm A int8", Card())[1]
    monkeypatch.setattr(cubin_launch, "unavailable", lambda: None)
    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    monkeypatch.setenv(settings.NO_JIT, "1")
    assert "forbids compiling" in str(cuda_launch.unavailable(kernel))
    with pytest.raises(BackendUnavailable, match="build-kernels"):
        cuda_launch.bind(kernel)
    monkeypatch.delenv(settings.NO_JIT)
    monkeypatch.setattr(cuda_nvrtc, "unavailable", lambda: "libnvrtc cannot be loaded")
    assert cuda_launch.unavailable(kernel) == "libnvrtc cannot be loaded"


@needs_triton
def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed stream that loads a state dict starts anew, and compiles nothing; nor does another process."""
    _, kernel = declared("gru 64-128 int8", Card())
    asked: list[int] = []

    def compile_cubin(kernel: CudaKernel, capability: int) -> Cubin:
        asked.append(capability)
        about = (kernel.parameters, kernel.num_warps, kernel.shared_bytes, 0, 0, kernel.cooperative, "a test", b"code")
        return Cubin(kernel.key, capability, kernel.name, kernel.entry, *about)

    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    monkeypatch.delenv(settings.NO_JIT, raising=False)
    monkeypatch.setattr(cuda_launch, "_in_process", {})
    monkeypatch.setattr(cuda_launch, "_capability", lambda: 90)
    monkeypatch.setattr(cuda_launch, "compile_cubin", compile_cubin)
    monkeypatch.setattr(cubin_launch, "load", lambda cubin: cubin)
    first = cuda_launch.bind(kernel)
    assert cuda_launch.bind(kernel) is first
    assert asked == [90]
    assert CubinStore(tmp_path).find(kernel.key, 90) == first


MODEL = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 1)
    def forward(self, x):
        return self.head(self.stack(x)[0][:, -1])
def stream():
    return Net().eval(), torch.randn(1, 8), [torch.randn(4, 6, 8)]
def chain():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), (torch.randn(1, 16),), [torch.randn(9, 16)]
"""


@needs_triton
@needs_nvrtc
def test_kernels_that_stay_are_built_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "resident_of_test.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    words = ["build-kernels", "--arch", "sm_90", "--out", "kernels"]
    assert main([*words, "--model", "resident_of_test:stream", "--stream", "--scheme", "w4a8"]) == 0
    assert main([*words, "--model", "resident_of_test:chain", "--persistent"]) == 0
    starts = ("gru_chip_int4g32_K8_H16", "mlp_chip_int8_16-32-4")
    names = sorted(c.name for c in CubinStore(tmp_path / "kernels"))
    assert len(names) == len(starts)
    assert all(name.startswith(start) for name, start in zip(names, starts)), names
    assert main([*words, "--stream"]) == 2
    assert "expected a target" in capsys.readouterr().err

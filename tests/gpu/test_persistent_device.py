"""Persistent kernels on a device that hangs where a real one would (tests/support/fake_cuda.py): what is loaded when, what runs
beside what, how a kernel ends, and who may have its memory then."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import cuda_driver, cuda_errors, cuda_persistent
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem
from rtaccel.kernels._gpu import triton_launch
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda import kernel as cuda_kernel
from rtaccel.runtime import execute
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import device, persistent_choice, persistent_run, persistent_stacks
from rtaccel.runtime.gpu.persistent_device import CudaPersistent
from rtaccel.runtime.gpu.persistent_weights import RENEW, SECOND
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.support.fake_cuda import FakeCard, Hang

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@cache
def lowered_chain(width: int) -> CompiledModel:
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 5)).eval()
    x = torch.randn(1, 20)
    plain = rt.compile(model, (x,), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 20)])
    assert isinstance(plain, CompiledModel)
    return plain


@cache
def lowered_stream(features: int, hidden: int, layers: int) -> StreamModel:
    torch.manual_seed(features)
    return rt.stream(
        Net(features, hidden, layers).eval(), torch.randn(1, features), scheme="w8a8",
        calibration=[torch.randn(2, 4, features)],
    )  # fmt: skip


SMALL, LARGE = (40, 24, 1), (250, 200, 3)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCard]:
    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    for width in (32, 48):  # torch.export would ask the card
        lowered_chain(width)
    for size in (SMALL, LARGE):
        lowered_stream(*size)
    made = FakeCard()
    made.install(monkeypatch)
    monkeypatch.setattr(cuda_persistent, "_seats", [])
    monkeypatch.setattr(cuda_persistent, "_left_alone", [])
    monkeypatch.delenv(cuda_driver.CONNECTIONS, raising=False)
    monkeypatch.delenv(cuda_driver.LAUNCH_BLOCKING, raising=False)
    yield made
    made.over = True
    cuda_errors.revive()


Make = Callable[..., CompiledModel]


@pytest.fixture
def chain() -> Make:
    """Makes MLPs of some width on a persistent kernel; each width is code of its own."""

    def make(width: int = 32) -> CompiledModel:
        plain = lowered_chain(width)
        options = Options(1, "cpu", None, 1, "Net", mode="persistent")
        return CompiledModel(plain._program, options, plain._argument_names)

    return make


class Net(nn.Module):
    def __init__(self, features: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.stack, self.head = nn.LSTM(features, hidden, layers, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stack(x)[0][:, -1])
        return y


def stream(features: int = 40, hidden: int = 24, layers: int = 1) -> StreamModel:
    """By the kernel in CUDA C++."""
    plain = lowered_stream(features, hidden, layers)
    options = Options(1, title="Net, streamed", states=plain._options.states, mode="persistent")
    with persistent_choice.only(persistent_stacks.CUDA):
        return StreamModel(plain._program, options, ("x_t",))


def reloaded(live: StreamModel, state: dict[str, Tensor]) -> None:
    with persistent_choice.only(persistent_stacks.CUDA):
        live.load_state_dict(state)


def call(model: CompiledModel) -> Tensor:
    return model(torch.randn(1, 20))


# -- loading -----------------------------------------------------------------------------------------------------------


def test_all_is_loaded_before_the_first_starts(card: FakeCard, chain: Make) -> None:
    one, two, live = chain(32), chain(48), stream()
    assert len(card.loaded) == 3 and not card.kernels
    call(one)
    before = list(card.loaded)
    call(two)
    live.step(torch.randn(1, 40))
    assert card.loaded == before and len(card.running) == 3
    assert f"ready {before[2]}" in card.log  # the driver's lazy loading, too
    for model in (one, two, live):
        model.close()
    assert not card.running


def test_another_model_of_the_same_code_loads_nothing(card: FakeCard) -> None:
    first = stream()
    first.step(torch.randn(1, 40))
    second = stream()  # beside the first, which runs
    second.step(torch.randn(1, 40))
    assert len(card.loaded) == 1 and len(card.running) == 2


def test_code_is_not_loaded_beside_a_persistent_kernel(card: FakeCard, chain: Make) -> None:
    one = chain(32)
    call(one)
    with pytest.raises(BackendUnavailable, match=r"not loaded yet.*Compile all models before the first call"):
        chain(48)
    with pytest.raises(BackendUnavailable, match="not loaded yet"):
        stream()
    assert [seat.name for seat in cuda_persistent._seats] == ["mlp 20-32-5"]  # a refusal takes no room
    one.suspend()
    two = chain(48)
    assert torch.equal(call(one), call(two))  # zeros, from both: the first was started again
    assert len(card.running) == 2


def test_a_layer_that_is_launched_first_beside_it(card: FakeCard, chain: Make) -> None:
    """By Triton's JIT, which loads at the first launch."""
    from rtaccel.core.stage import Problem
    from rtaccel.kernels.linear import contract
    from rtaccel.kernels.linear.triton import gemv

    stage = contract.make_stage(32, 10, "static")
    layers = [gemv.prepare(stage, Problem.of(stage, 1)) for _ in range(2)]
    one = chain()
    call(one)
    x = torch.zeros(1, 32, dtype=torch.int8)
    with pytest.raises(BackendUnavailable, match="linear_gemv"):
        layers[0](x)
    one.suspend()
    layers[0](x)
    call(one)
    layers[0](x)  # loaded by now


def test_to_compile_for_the_gpu_is_to_load(card: FakeCard, chain: Make) -> None:
    model = chain()
    call(model)
    with pytest.raises(BackendUnavailable, match="not loaded yet"):
        execute.build_executor(lowered_chain(48)._program, Options(1, "cuda", None, 1, "Other", mode="eager"))


def test_new_weights_load_no_code_and_wait_for_nothing(card: FakeCard) -> None:
    live, other = stream(), stream()
    state = other.state_dict()
    live.step(torch.randn(1, 40))
    other.close()
    for _ in range(3):
        reloaded(live, state)
        assert not card.running  # the old one ended first; the new one starts with the next step
        live.step(torch.randn(1, 40))
        assert len(card.running) == 1
    assert len(card.loaded) == 1


def test_weights_are_exchanged_beside_a_kernel_that_runs(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, launched or waited for but the copies, which go by pinned memory; the next message orders it."""
    seen: list[int] = []
    for_the_card = persistent_stacks.WeightSets

    def pinned(packed: Any, device: str) -> Any:
        sets = for_the_card(packed, device)
        sets._staging = {name: torch.full_like(t, 85) for name, t in packed.items()}  # as on a card
        return sets

    monkeypatch.setattr(persistent_stacks, "WeightSets", pinned)
    live = stream()
    live.step(torch.randn(1, 40))
    (kernel,) = card.running
    log, loaded, sets = list(card.log), list(card.loaded), live._plan().weights
    state = {k: v.flip(0) if v.dtype == torch.int8 else v for k, v in live.state_dict().items() if k != "_extra_state"}
    for swap in (lambda: live.swap(state), live.rollback, live.rollback):
        number = live._plan()._kernel.box.number
        swap()
        assert live.swap_pending
        live.step(torch.randn(1, 40))
        assert not live.swap_pending
        words = kernel._requests.numel() // 2
        last = kernel._requests[((number + 1) & 1) * words :][words - 1]
        seen.append(int(last) & 0xFFFFFFFF)
    assert seen == [RENEW | SECOND, RENEW, RENEW | SECOND]
    assert kernel.alive and card.loaded == loaded and card.log == log
    for name, packed in live._plan().packed(live._executor.steps[0].source.group).items():
        assert torch.equal(sets.tensors[name][1], packed), name
    live.close()


def test_a_load_that_fails_leaves_the_old_one_working(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    live = stream()
    state = live.state_dict()
    live.step(torch.randn(1, 40))

    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(CudaPersistent, "load", full)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            reloaded(live, state)
    live.step(torch.randn(1, 40))
    assert len(card.running) == 1
    assert len(cuda_persistent._seats) == 1


# -- room, queues, streams -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_beside_others_is_refused_before_it_is_launched(card: FakeCard) -> None:
    card.multiprocessors = 12
    first = stream(*LARGE)
    first.step(torch.randn(1, 250))
    blocks = card.kernels[0].blocks
    assert blocks > 6
    with pytest.raises(BackendUnavailable, match=rf"{blocks} multiprocessors; expected at most {12 - blocks} of 12"):
        stream(*LARGE)
    reloaded(first, first.state_dict())  # its own place is free for its own weights
    first.step(torch.randn(1, 250))
    first.close()
    stream(*LARGE).step(torch.randn(1, 250))


def test_two_of_the_largest_of_stac_ml_do_not_fit_one_card() -> None:
    form, kernel = cuda_kernel.declared("lstm C int8", Card(90, 132))
    seat = cuda_persistent.reserve(7, kernel.name, form.parts, 132)
    try:
        with pytest.raises(BackendUnavailable, match=r"125 multiprocessors; expected at most 7 of 132.*close\(\)"):
            cuda_persistent.reserve(7, kernel.name, form.parts, 132)
    finally:
        seat.release()


def test_each_has_a_stream_that_nobody_else_is_given(card: FakeCard, chain: Make) -> None:
    models = [chain(32), chain(48)]
    for model in models:
        call(model)
    names = [kernel.stream.name for kernel in card.kernels]
    assert len(set(names)) == 2 and all(name.startswith("own") for name in names)


def test_more_kernels_than_hardware_queues(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [stream() for _ in range(7)]
    with pytest.raises(BackendUnavailable, match=r"8 hardware queues.*CUDA_DEVICE_MAX_CONNECTIONS=32"):
        stream()
    monkeypatch.setenv(cuda_driver.CONNECTIONS, "32")
    held.append(stream())


def test_where_launches_block_none_may_stay(card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda_driver.LAUNCH_BLOCKING, "1")
    with pytest.raises(BackendUnavailable, match="CUDA_LAUNCH_BLOCKING every launch waits"):
        chain()


def test_explain_says_how_code_is_loaded(card: FakeCard, chain: Make) -> None:
    model = chain()
    assert "CUDA_MODULE_LOADING=LAZY, 8 hardware queues" in model.explain(measure=False)
    card.eager = True
    assert "CUDA_MODULE_LOADING=EAGER" in model.explain(measure=False)


# -- captures --------------------------------------------------------------------------------------------------------


def test_a_capture_waits_for_no_device(card: FakeCard, chain: Make) -> None:
    """With all code loaded eagerly it may be made beside a persistent kernel; else it is refused in time."""
    model = chain()
    call(model)
    with pytest.raises(Hang):
        torch.cuda.synchronize()
    work = lambda: (torch.zeros(1),)  # noqa: E731
    with pytest.raises(BackendUnavailable, match="CUDA_MODULE_LOADING=EAGER"):
        device.TorchCuda().capture(work)
    card.eager = True
    device.TorchCuda().capture(work)
    assert card.log[-4:] == ["pool waits for default", "capture on pool", "captured", "default waits for pool"]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_start_that_does_not_return(card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent_run, "START_S", 0.2)
    model = chain()
    card.stuck = True
    with pytest.raises(BackendUnavailable, match=r"starting mlp 20-32-5, for 0.2 s.*new process"):
        call(model)
    assert "did not return" in (cuda_errors.dead() or "")
    assert cuda_persistent.left_alone() == 1
    with pytest.raises(BackendUnavailable, match="did not return"):
        chain(48)
    model.close()


def test_code_that_does_not_load(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_persistent, "LOAD_S", 0.2)
    monkeypatch.setattr(FakeCard, "load", lambda self, name: __import__("time").sleep(5))
    with pytest.raises(BackendUnavailable, match=r"loading lstm.*for 0.2 s"):
        stream()
    assert not cuda_persistent._seats


def test_a_fault_in_the_kernel_marks_the_backend_dead(
    card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtaccel.runtime.gpu.persistent.TIMEOUT_NS", 50_000_000)
    model = chain()
    call(model)
    card.kernels[0].fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    card.over = True  # it answers no more
    while card.running:
        pass
    with pytest.raises(BackendUnavailable, match="no answer"):
        call(model)
    assert "illegal memory access" in (cuda_errors.dead() or "")
    with pytest.raises(BackendUnavailable, match="no CUDA call of this process works"):
        chain(48)


def test_memory_of_a_kernel_that_does_not_end_is_left_alone(
    card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistent_run, "END_S", 0.05)
    model = chain()
    card.stubborn = True
    call(model)
    requests = weakref.ref(card.kernels[0]._requests)
    card.kernels[0]._requests = card.kernels[0]._requests.clone()  # the thread that plays it holds it no more
    model.close()
    del model
    gc.collect()
    assert requests() is not None
    assert cuda_persistent.left_alone() == 1
    assert cuda_persistent._seats, "its multiprocessors stay taken"
    assert cuda_persistent.running(), "and nothing is loaded beside it"


def test_one_that_did_not_end_is_not_started_again(
    card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kernels would read one mailbox."""
    monkeypatch.setattr(persistent_run, "END_S", 0.05)
    model = chain()
    card.stubborn = True
    call(model)
    model.suspend()
    with pytest.raises(BackendUnavailable, match="did not end when it was told to"):
        call(model)
    assert len(card.kernels) == 1


def test_a_launch_that_is_refused_takes_no_room(card: FakeCard, chain: Make) -> None:
    model = chain()
    card.launch_error = of_package("triton.runtime.errors", "OutOfResources", "out of resource: shared memory")
    with pytest.raises(UnsupportedProblem):
        call(model)
    assert not cuda_persistent._seats and not cuda_persistent.left_alone()
    card.launch_error = None
    assert call(model).shape == (1, 5)


def test_memory_of_one_that_ended_is_given_back(card: FakeCard, chain: Make) -> None:
    model = chain()
    call(model)
    requests = weakref.ref(card.kernels[0]._requests)
    model.close()
    card.kernels.clear()
    del model
    gc.collect()
    assert requests() is None
    assert not cuda_persistent._seats and not cuda_persistent.left_alone()


# -- errors ------------------------------------------------------------------------------------------------------------


def of_package(package: str, name: str, text: str) -> Exception:
    made: Exception = type(name, (Exception,), {"__module__": package})(text)
    return made


@pytest.mark.parametrize(
    ("error", "typed", "said", "dies"),
    [
        (("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal address"),
         BackendUnavailable, "ILLEGAL_ADDRESS", True),
        (("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_LAUNCH_FAILED: x"), BackendUnavailable, "FAILED", True),
        (("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_OUT_OF_MEMORY: x"), UnsupportedProblem, "memory", False),
        (("cuda.core._utils.cuda_utils", "CUDAError", "CUDA_ERROR_INVALID_VALUE: x"), BackendUnavailable, "INVALID_VALUE",
         False),
        (("triton.runtime.errors", "OutOfResources", "out of resource: shared memory"), UnsupportedProblem,
         "shared memory", False),
    ],
)  # fmt: skip
def test_errors_of_other_packages_are_typed(
    error: tuple[str, str, str], typed: type[Exception], said: str, dies: bool, card: FakeCard, chain: Make
) -> None:
    model = chain()
    card.launch_error = of_package(*error)
    with pytest.raises(typed, match=said):
        call(model)
    assert (cuda_errors.dead() is not None) == dies


def test_errors_of_triton_itself_are_known() -> None:
    from triton.runtime.errors import OutOfResources

    with pytest.raises(UnsupportedProblem, match="device='cpu'"), cuda_errors.translated("kernels"):
        raise OutOfResources(300_000, 232_448, "shared memory")
    with pytest.raises(KeyError), cuda_errors.translated("kernels"):
        raise KeyError("of ours, and not CUDA's")


def test_a_persistent_kernel_in_its_stream_is_never_waited_for(card: FakeCard, chain: Make) -> None:
    """The stand-in itself: what would hang a card hangs here."""
    model = chain()
    call(model)
    stream = card.kernels[0].stream
    assert not stream.query()
    for wrong in (stream.synchronize, torch.cuda.synchronize, torch.cuda.empty_cache):
        with pytest.raises(Hang):
            wrong()
    other = triton_launch._Jit(SimpleNamespace(name="other", kernel=None, keywords={}))  # type: ignore[arg-type]
    with pytest.raises(Hang):
        other._kernel[(1,)](x_ptr=None)

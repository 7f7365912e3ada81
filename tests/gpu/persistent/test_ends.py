"""How a persistent kernel ends, who may have its memory then, and which errors are raised, on a device that hangs where a real
one would (tests/support/fake_cuda.py)."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from rtaccel.backends import cuda_errors, cuda_persistent
from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem
from rtaccel.kernels._gpu import triton_launch
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent_run
from tests.gpu.persistent.models import Make, call, stream
from tests.support.fake_cuda import FakeCard, Hang

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


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
    monkeypatch.setattr(FakeCard, "load", lambda self, name: self.hang())
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


@pytest.fixture
def stubborn(card: FakeCard, chain: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[[], CompiledModel]:
    """Makes a model whose kernel runs, and does not look at the word that ends it. Nothing but the test holds the model."""

    def make() -> CompiledModel:
        monkeypatch.setattr(persistent_run, "END_S", 0.05)
        model = chain()
        card.stubborn = True
        call(model)
        return model

    return make


def test_memory_of_a_kernel_that_does_not_end_is_left_alone(
    card: FakeCard, stubborn: Callable[[], CompiledModel]
) -> None:
    model = stubborn()
    requests = weakref.ref(card.kernels[0]._requests)
    card.kernels[0]._requests = card.kernels[0]._requests.clone()  # the thread that plays it holds it no more
    model.close()
    del model
    gc.collect()
    assert requests() is not None
    assert cuda_persistent.left_alone() == 1
    assert cuda_persistent._seats, "its multiprocessors stay taken"
    assert cuda_persistent.running(), "and nothing is loaded beside it"


def test_one_that_did_not_end_is_not_started_again(card: FakeCard, stubborn: Callable[[], CompiledModel]) -> None:
    """Two kernels would read one mailbox."""
    model = stubborn()
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

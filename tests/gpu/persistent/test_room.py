"""Room, queues, streams and captures beside persistent kernels, on a device that hangs where a real one would
(tests/support/fake_cuda.py)."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from rtaccel.backends import cuda_driver, cuda_persistent
from rtaccel.core.errors import BackendUnavailable
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda import kernel as cuda_kernel
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import device
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.gpu.persistent.models import LARGE, Make, call, lowered_large_chain, reloaded, stream
from tests.support.fake_cuda import FakeCard, Hang

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


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


def test_a_cluster_where_the_device_has_room_for_it(card: FakeCard) -> None:
    """The driver is asked, before anything starts. Each multiprocessor of another kernel may be in the way of a cluster."""

    def why(model: StreamModel) -> str:
        (line,) = model.explain_lines(measure=False)
        return "; ".join(line.reasons)

    card.clusters = 0  # none of this size
    none = stream(*LARGE)
    assert "clusters of 7" in card.log and not card.kernels
    assert "not a cluster of 7 programs, for which this device has no room" in why(none)
    none.close()
    card.clusters = 1
    first = stream(*LARGE)
    assert "they are a cluster" in why(first)
    first.step(torch.randn(1, 250))
    assert card.kernels[0].blocks == 7
    card.clusters = 7  # one for each of those that the first has
    assert "not a cluster of 7 programs" in why(stream(*LARGE))
    card.clusters = 8
    assert "they are a cluster" in why(stream(*LARGE))


def test_a_chain_in_a_cluster_where_the_device_has_room_for_it(card: FakeCard) -> None:
    """All of its blocks start, and each has a multiprocessor. Without room it is Triton's kernel, through L2."""

    def started() -> tuple[int, str]:
        program = lowered_large_chain()._program
        model = CompiledModel(program, Options(1, "cpu", None, 1, "Net", mode="persistent"), ())
        (line,) = model.explain_lines(measure=False)
        assert model(torch.randn(1, 256)).shape == (1, 128)
        blocks = card.kernels[-1].blocks
        model.close()
        return blocks, f"{line.kernel}: {'; '.join(line.reasons)}"

    blocks, why = started()
    assert 2 <= blocks <= 8 and f"clusters of {blocks}" in card.log
    assert "cuda_chain" in why and f"each of {blocks} programs, a cluster" in why
    card.clusters = 0
    blocks, why = started()
    assert blocks == 4 and "for which this device has no room" in why and "triton_persistent" in why


def test_a_driver_that_does_not_count_clusters(card: FakeCard) -> None:
    card.clusters = -1
    with pytest.raises(BackendUnavailable, match=r"lstm_chip.*did not count \(CUDA_ERROR_UNKNOWN\)"):
        stream(*LARGE)

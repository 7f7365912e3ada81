"""Messages in the card's memory, into which the host writes by GDRCopy: with a library that stands in for it, whose mappings are
a second address of the same bytes."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import cuda_driver, cuda_persistent, gdr
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cuda.choice import mapping, select_config
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent_device
from rtaccel.runtime.gpu.persistent_device import CudaPersistent, Requests
from rtaccel.runtime.options import Options
from tests.cuda_checks import on_host
from tests.cuda_checks.streams import CASES, Partition, in_place_of_a_gpu, other_weights, same, staying, streams
from tests.support import kept
from tests.support.fake_cuda import FakeCard

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent kernels need triton"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]


def library() -> Path:
    source = on_host.HERE / "gdrapi_stand_in.cc"
    command = [on_host.COMPILER, *on_host.FLAGS, "-shared", "-fPIC", str(source)]
    return kept.compiled_by(command, [source], "libgdrapi.so")


def view(address: int, words: int) -> Tensor:
    return torch.frombuffer((ctypes.c_char * (8 * words)).from_address(address), dtype=torch.int64)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """GDRCopy and a driver whose memory it maps."""
    lib = ctypes.CDLL(str(library()))
    lib.stand_in_allocate.restype, lib.stand_in_allocate.argtypes = ctypes.c_uint64, (ctypes.c_size_t,)
    opened = gdr.Gdr(str(library()))
    driver = SimpleNamespace(allocate=lib.stand_in_allocate)
    monkeypatch.setattr(gdr, "opened", lambda: opened)
    monkeypatch.setattr(gdr, "_spare", {})
    monkeypatch.setattr(cuda_driver, "driver", lambda: driver)
    monkeypatch.setattr(persistent_device, "seen_by_kernels", view)
    monkeypatch.setenv(settings.MAILBOX, "gdr")
    yield lib
    lib.stand_in_is(0, 0)


@pytest.mark.parametrize("size", [8, gdr.PAGE, gdr.PAGE + 8, 3 * gdr.PAGE])
def test_what_the_host_writes_is_in_the_cards_memory(size: int, stand_in: Any) -> None:
    region = gdr.take(size)
    assert region.host != region.card and region.bytes >= size
    host, card = view(region.host, size // 8), view(region.card, size // 8)
    numbers = torch.randint(-(2**62), 2**62, (size // 8,))
    host.copy_(numbers)
    assert torch.equal(card, numbers)
    other = gdr.take(size)
    view(other.host, size // 8).zero_()
    assert torch.equal(card, numbers)
    gdr.give_back(region)
    assert gdr.take(size) is region  # a region is mapped once


def test_where_there_is_no_gdrcopy(stand_in: Any) -> None:
    """What is missing, and what to do."""
    with pytest.raises(BackendUnavailable, match=r"libnothing\.so.*modprobe gdrdrv"):
        gdr.Gdr("libnothing.so")
    with pytest.raises(BackendUnavailable, match=r"the library of GDRCopy"):
        gdr.Gdr("libm.so.6")  # a library without its functions
    stand_in.stand_in_is(1, 0)
    with pytest.raises(BackendUnavailable, match="/dev/gdrdrv"):
        gdr.Gdr(str(library()))
    stand_in.stand_in_is(0, 12)
    with pytest.raises(BackendUnavailable, match="gdr_pin_buffer: ENOMEM"):
        gdr.take(8)


def test_a_mailbox_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.MAILBOX, "pigeon")
    with pytest.raises(BackendUnavailable, match=r"RTACCEL_MAILBOX=pigeon.*'host' or 'gdr'"):
        settings.mailbox()


def test_forms_follow_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block polls, without warps that do nothing else, and x is passed on to nobody."""
    lstm_b = (Geometry(200, layers=3), 250, 4, 0, None, Card())
    monkeypatch.delenv(settings.MAILBOX, raising=False)
    plain = select_config(*lstm_b)
    with mapping(True):
        inside = select_config(*lstm_b)
    monkeypatch.setenv(settings.MAILBOX, "gdr")
    mapped = select_config(*lstm_b)
    assert plain is not None and mapped is not None and mapped == inside
    assert (plain.mapped, mapped.mapped, mapped.pollers) == (False, True, 0)
    assert len(mapped.between()) == len(plain.between()) - 1


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., on_host.HostDevice]]:
    yield from in_place_of_a_gpu(monkeypatch)


@pytest.mark.parametrize("cut", [Partition(2, 2, 9, mapped=True), Partition(2, 2, 9, 0, True, True)])
def test_a_stream_by_mapped_memory(
    cut: Partition, devices: Callable[..., on_host.HostDevice], stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reads one address and the host writes another: the CPU's bits, other weights, states, an end and a new start."""
    make, features, scheme, _ = CASES["lstm-int4-two"]
    device = devices(cut)
    monkeypatch.setattr(device, "requests", lambda words: CudaPersistent.requests(device, words))
    live, plain = streams(make(), features, scheme)
    for time_step in range(6):
        x = torch.randn(1, features)
        if time_step == 2:
            live.reset()
            plain.reset()
        if time_step == 4:
            state = other_weights(plain, time_step)
            live.swap(state)
            plain.swap(state)
        assert same(live.step(x), plain.step(x)), time_step
    live.load_state_dict(live.state_dict())
    x = torch.randn(1, features)
    assert same(live.step(x), plain.step(x))
    live.close()
    assert all(int(control[1]) == 2 for control in device.controls)
    for thread in device.threads:
        thread.join(60)
        assert not thread.is_alive()
    again = staying(plain)
    plain.reset()
    assert same(again.step(x), plain.step(x))
    again.close()
    assert sum(map(len, gdr._spare.values())) == 2  # of three kernels: one was there when the second was made


def test_a_chain_by_mapped_memory(stand_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels with one block need not know: they look where they are told to, and at the word for the end."""
    torch.manual_seed(0)
    monkeypatch.delenv(settings.MAILBOX)
    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    model, x = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).eval(), torch.randn(1, 20)
    plain = rt.compile(model, (x,), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 20)])
    assert isinstance(plain, CompiledModel)
    card = FakeCard()
    card.allocate = stand_in.stand_in_allocate  # type: ignore[attr-defined]
    card.install(monkeypatch)
    monkeypatch.setattr(cuda_persistent, "_seats", [])
    monkeypatch.setenv(settings.MAILBOX, "gdr")
    fast = CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)
    assert fast(x).shape == (1, 5)
    (kernel,) = card.kernels
    assert kernel._requests.data_ptr() % 8 == 0 and not gdr._spare
    fast.close()
    assert not card.running and len(gdr._spare) == 1


def test_memory_that_both_share_needs_no_mapping() -> None:
    words = torch.zeros(4, dtype=torch.int64)
    shared = Requests.shared(words)
    shared.host[1] = 5
    assert int(shared.card[1]) == 5 and shared.mapped is None
    shared.clear()
    assert not words.any()

"""Recurrent streams by the kernel in CUDA C++: the same source on a CPU against the CPU's stream, to the bit; its states; what
it touches. When it is taken, and what its machine code is made of: tests/gpu/test_cuda_recurrent_code.py."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import gdr, get_backend
from rtaccel.core import settings
from rtaccel.core.errors import BackendUnavailable
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels.recurrent.cuda import choice as cuda_choice
from rtaccel.kernels.recurrent.cuda import kernel as cuda_kernel
from rtaccel.kernels.recurrent.cuda.config import Head, KernelConfig
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.runtime.gpu import persistent, persistent_choice, persistent_stacks
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks import on_host
from tests.cuda_checks.streams import (
    CASES,
    Net,
    Partition,
    in_place_of_a_gpu,
    layout_of,
    other_weights,
    same,
    staying,
    streams,
)
from tests.turns import todays

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent streams need triton"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., on_host.HostDevice]]:
    yield from in_place_of_a_gpu(monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpu(case: str, devices: Callable[..., on_host.HostDevice]) -> None:
    """Resets, a row that is no number, states that are saved, loaded and go on elsewhere."""
    make, features, scheme, cut = CASES[case]
    device = devices(cut)
    live, plain = streams(make(), features, scheme)
    for time_step in range(9):
        x = torch.randn(1, features)
        if time_step == 5:
            x[0, features // 2] = float("nan")
        if time_step in (3, 7):
            live.reset()
            plain.reset()
        got, want = live.step(x), plain.step(x)
        assert same(got, want), time_step
        assert bool(got.isnan().all()) == (time_step in (5, 6))
    past = live.state_dict()
    ahead = [torch.randn(1, features) for _ in range(2)]
    wants = [plain.step(x) for x in ahead]
    assert all(same(live.step(x), want) for x, want in zip(ahead, wants))
    live.load_state_dict(past)  # on a new kernel
    assert all(same(live.step(x), want) for x, want in zip(ahead, wants))
    kernel, again = device.built
    assert kernel == again
    assert "cuda_recurrent" in live.explain() and "in shared memory of each" in live.explain()
    live.close()
    assert all(int(control[1]) == 2 for control in device.controls)
    with pytest.raises(BackendUnavailable, match="closed"):
        live.state_dict()


def lines_of(*words: str) -> list[int]:
    """Lines of the kernel's files that end with one of these calls; no two are alike."""
    files = [*(name for name in cuda_kernel.FILES if "cuda_words" not in name), "recurrent/cuda/recurrent.cu"]
    lines = [line for name in files for line in enumerate((cuda_nvrtc.FOLDER / name).read_text().splitlines(), 1)]
    found = [n for n, line in lines if line.endswith(";") and any(word in line for word in words)]
    assert len(set(found)) == len(found), "two files have a barrier in the same line: move one of them"
    return found


def barriers() -> list[int]:
    """Where threads wait for each other."""
    return lines_of("meet<", "arrive<", "__syncthreads();", "__syncwarp();", "meet_cluster();")


@pytest.fixture(scope="module")
def two() -> tuple[StreamModel, int, Partition]:
    """(a stream on the CPU, its features, a cut): what has every kind of barrier."""
    make, features, scheme, cut = CASES["lstm-int4-two"]
    torch.manual_seed(0)
    calibration = [torch.randn(8, 5, features)]
    return rt.stream(make().eval(), torch.randn(1, features), scheme=scheme, calibration=calibration), features, cut


SEEDS = (*range(1, 7), 8, 11, 14, 17)
"""Of orders: in every third some warps lag behind, and in the sixth a cluster's other blocks start late."""

MORE_SEEDS = range(18, 90)
"""The host is a thread of the system's, so a busy machine can hide what an order of the others shows."""


def goes_wrong(live: StreamModel, plain: StreamModel, features: int) -> bool:
    """Whether an answer is another than the CPU's, or does not come."""
    plain.reset()
    try:
        for time_step in range(4):
            x = torch.randn(1, features)
            if time_step == 2:
                live.reset()
                plain.reset()
            if time_step % 2:
                state = other_weights(plain, time_step)
                live.swap(state)
                plain.swap(state)
            if not same(live.step(x), plain.step(x)):
                return True
        live.load_state_dict(live.state_dict())
        return not same(live.step(x), plain.step(x))
    except BackendUnavailable:
        return True


def test_every_barrier_is_needed(
    two: tuple[StreamModel, int, Partition], devices: Callable[..., on_host.HostDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody waits at one of them, some order of the threads gives wrong answers: so the order of all others is decided."""
    plain, features, cut = two
    needless, lines = [], todays(barriers(), 3)
    # A cluster's barrier before its end is for blocks that gave up a word (tests/gpu/protocols/cluster.py).
    expected = [0, *(line for line in lines_of("meet_cluster();")[-1:] if line in lines)]
    for line in (0, *lines):
        seeds = SEEDS if line in expected else (*SEEDS, *MORE_SEEDS)
        for seed, (pollers, cluster) in itertools.product(seeds, ((0, False), (4, False), (4, True))):
            devices(cut._replace(pollers=pollers, cluster=cluster), seed=seed, skipped=line)
            monkeypatch.setattr(persistent, "TIMEOUT_NS", 1_000_000_000)
            live = staying(plain)
            wrong = goes_wrong(live, plain, features)
            live.close()
            if wrong:
                break
        if not wrong:
            needless.append(line)
    assert needless == expected


def test_a_word_that_does_not_come(
    two: tuple[StreamModel, int, Partition], devices: Callable[..., on_host.HostDevice]
) -> None:
    """Message 3 lacks a word of the second program, of each kind: no number is made up, and a reset mends it."""
    plain, features, cut = two
    half = 2 * 12  # words of both slots of a layer
    kinds = ((0, False), (4, False), (0, True), (4, True))
    for dropped, (pollers, cluster) in itertools.product((12 + 7, half + 12 + 7, 2 * half + 12 + 7), kinds):
        devices(cut._replace(pollers=pollers, cluster=cluster), dropped=dropped, looks=400)
        live = staying(plain)
        plain.reset()
        for time_step in range(1, 7):
            x = torch.randn(1, features)
            if time_step == 6:
                live.reset()
                plain.reset()
            got, want = live.step(x), plain.step(x)
            lost = time_step in (4, 5) or (time_step == 3 and dropped != half + 12 + 7)
            assert bool(got.isnan().all()) if lost else same(got, want), (dropped, time_step)
        live.close()


@pytest.mark.parametrize(("pollers", "cluster"), [(0, False), (4, False), (4, True)])
def test_it_touches_nothing_outside_its_buffers(pollers: int, cluster: bool) -> None:
    """Every buffer of its own size, shared memory too, under a sanitizer; a buffer that is 16 bytes too short is found."""
    form = KernelConfig(Geometry(30, layers=2), 37, 4, 32, Head(3, "relu", 32), 16, 2, 2, 3, 5, True, pollers, cluster)
    program = on_host.build(
        cuda_kernel.kernel_of("lstm", form),
        "sanitized",
        "-DRTA_PROGRAM",
        "-fsanitize=address",
        "-fno-omit-frame-pointer",
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)

    assert run().returncode == 0
    pointers = [name for name, kind in cuda_kernel.PARAMETERS if kind.startswith("*")]
    for name in ("request_ptr", "past_ptr", "words_ptr", "scales_ptr", *([] if cluster else ["exchange_ptr"])):
        found = run(str(pointers.index(name)))
        assert found.returncode != 0 and "heap-buffer-overflow" in found.stderr, name


def on_a_gpu(model: nn.Module, features: int, scheme: Any, time_steps: int, starts: int) -> None:
    """The kernel of CUDA C++ on the card, started and ended several times, against the CPU's stream; its past goes on."""
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    calibration = [torch.randn(4, 9, features)]
    plain = rt.stream(model.eval(), torch.randn(1, features), scheme=scheme, calibration=calibration)
    with persistent_choice.only(persistent_stacks.CUDA):
        for _ in range(starts):
            live = staying(plain)
            plain.reset()
            for time_step in range(time_steps):
                if time_step == time_steps // 2:
                    live.reset()
                    plain.reset()
                if time_step == time_steps // 2 + 5:
                    live.load_state_dict(live.state_dict())
                if time_step % 6 == 2:
                    state = other_weights(plain, time_step)
                    live.swap(state)
                    plain.swap(state)
                x = torch.randn(1, features)
                assert same(live.step(x), plain.step(x)), time_step
            live.close()


@pytest.mark.parametrize("case", CASES)
def test_small_networks_on_a_gpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the form that is chosen; clusters, and messages in the card's memory, in the cut of the case."""
    make, features, scheme, cut = CASES[case]
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000_000)  # bench/device/sanitizer.py runs it, and is slow
    if cut.cluster or cut.mapped:
        on_a_card_that_has(cut, monkeypatch)
        monkeypatch.setattr(cuda_choice, "select_config", layout_of(cut))
    on_a_gpu(make(), features, scheme, 20, 2)


def on_a_card_that_has(cut: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where it has no clusters, or its memory is not mapped."""
    if not torch.cuda.is_available():
        pytest.skip("runs on a GPU stay open here")
    if cut.cluster and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters stay open here: a card before compute capability 9.0")
    if cut.mapped:
        try:
            gdr.opened()
        except BackendUnavailable as error:
            pytest.skip(f"messages in the card's memory stay open here: {error}")
        monkeypatch.setenv(settings.MAILBOX, "gdr")


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
@pytest.mark.parametrize(("hidden", "features", "layers"), [(100, 100, 2), (200, 250, 3), (1000, 500, 4)])
def test_networks_of_stac_ml_on_a_gpu(hidden: int, features: int, layers: int, scheme: str) -> None:
    model = Net(nn.LSTM(features, hidden, layers, batch_first=True), nn.Linear(hidden, 1))
    on_a_gpu(model, features, scheme, 300, 3)


@pytest.mark.parametrize("how", ["through L2", "mapped"])
def test_other_forms_of_lstm_b_on_a_gpu(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card_that_has(Partition(1, 1, 0, mapped=how == "mapped"), monkeypatch)
    with cuda_choice.clustering(how != "through L2"):
        on_a_gpu(Net(nn.LSTM(250, 200, 3, batch_first=True), nn.Linear(200, 1)), 250, "w8a8", 300, 3)

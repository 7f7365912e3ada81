"""Chains of linear layers by the kernel in CUDA C++: the same source on a CPU against the CPU's own kernels, to the bit; other
weights while it runs; what it touches; its machine code; when it is taken."""

from __future__ import annotations

import datetime
import importlib.util
import itertools
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import get_backend
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels._persistent.card import SHARED_BYTES, Card
from rtaccel.kernels.mlp.cuda import kernel as cuda_kernel
from rtaccel.kernels.mlp.cuda.config import (
    KernelConfig,
)
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent
from rtaccel.runtime.gpu.persistent_chains import CUDA
from rtaccel.runtime.gpu.persistent_choice import only
from tests.cuda_checks import on_host
from tests.cuda_checks.chains import CASES, Case, chains, in_place_of_a_gpu, mlp, staying
from tests.cuda_checks.streams import other_weights, same
from tests.turns import todays

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_nvrtc = pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")
needs_compiler = pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler")

Devices = Callable[..., on_host.HostDevice]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    yield from in_place_of_a_gpu(monkeypatch)


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpu(case: str, devices: Devices) -> None:
    """Rows that hold a NaN or an infinity too, other weights and the old ones, by the kernel that was started at first; and by
    one that was started anew."""
    of = CASES[case]
    device = devices(of)
    live, plain = chains(of)
    states = [other_weights(plain, seed) for seed in (1, 2)]

    def call(nonfinite: float | None = None) -> None:
        x = torch.randn(1, of.inputs) * 3
        if nonfinite is not None:
            x[0, of.inputs // 2] = nonfinite
        got, want = live(x), plain(x)
        assert same(got, want) and bool(got.isnan().all()) == (nonfinite is not None)

    for nonfinite in (None, None, float("nan"), float("-inf"), None):
        call(nonfinite)
    for what in (
        lambda m: m.swap(states[0]), lambda m: None, lambda m: m.rollback(), lambda m: m.rollback(),
        lambda m: (m.swap(states[1]), m.swap(states[0])), lambda m: (m.swap(states[1]), m.rollback()),
    ):  # fmt: skip
        what(live)
        what(plain)
        call()
    assert len(device.controls) == 1
    live.swap(states[1])
    plain.swap(states[1])
    live.suspend()  # with an order that was not sent
    call()
    call()
    assert len(device.controls) == 2
    line = live.explain()
    assert CUDA in line and "warps poll the mailbox" in line
    live.close()
    assert all(int(control[1]) == 2 for control in device.controls)


@needs_compiler
def test_other_scales_are_refused(devices: Devices) -> None:
    of = CASES["int8"]
    devices(of)
    live, plain = chains(of)
    state = other_weights(plain, 4)
    scale = next(key for key, entry in plain._state.entries.items() if entry.kind == "scale")
    x = torch.randn(1, of.inputs)
    assert same(live(x), plain(x))
    with pytest.raises(FormatError, match="swap"):
        live.swap({**state, scale: state[scale] * 2})
    assert same(live(x), plain(x)) and not live.swap_pending
    live.close()


def barriers() -> list[int]:
    """Lines of the kernel at which threads wait for each other."""
    words = ("meet<", "arrive<", "__syncthreads();", "__syncwarp();", "fence_system();", "meet_cluster();")
    lines = (cuda_nvrtc.FOLDER / "mlp/cuda/chain.cu").read_text().splitlines()
    return [n for n, line in enumerate(lines, 1) if line.endswith(";") and any(word in line for word in words)]


@needs_compiler
def test_every_barrier_is_needed(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody waits at one of them, or without the fence, some order of the threads gives wrong answers."""
    plain = {name: chains_on_cpu(CASES[name]) for name in ("int8", "int4-groups", "cluster-int8", "cluster-int4")}
    needless, lines = [], todays(barriers(), 3)
    for line in (0, *lines):
        for seed, name in itertools.product(range(1, 7), plain):
            devices(CASES[name], seed=seed, skipped=line)
            monkeypatch.setattr(persistent, "TIMEOUT_NS", 1_000_000_000)
            wrong = goes_wrong(staying(plain[name]), plain[name], CASES[name].inputs)
            if wrong:
                break
        if not wrong:
            needless.append(line)
    # A cluster's barrier before its end is for blocks that gave up a word (tests/gpu/protocols/cluster.py).
    last = [n for n in barriers() if "meet_cluster" in source_line(n)][-1]
    assert needless == [0, *(line for line in (last,) if line in lines)]


def source_line(number: int) -> str:
    return (cuda_nvrtc.FOLDER / "mlp/cuda/chain.cu").read_text().splitlines()[number - 1]


@needs_compiler
def test_a_word_of_a_cluster_that_does_not_come(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third message lacks a word in every block: its answer is NaN, and those before and behind it are the CPU's. Who lacks
    a word gives none of the next layer, so no block answers with what it made of nothing."""
    of = CASES["cluster-int8"]
    plain = chains_on_cpu(of)
    of_x, first = 2 * (-(-of.inputs // 4) + 1), -(-90 // 4)
    for dropped in (of_x + first + 3, of_x + 2 * first + -(-33 // 4) + 1):  # of layer 0's outputs, and of layer 1's
        devices(of, dropped=dropped, looks=300)
        live = staying(plain)
        for number in range(1, 6):
            x = torch.randn(1, of.inputs)
            got = live(x)
            if number == 3:
                assert got.isnan().any() and (same(got[~got.isnan()], plain(x)[~got.isnan()]) or got.isnan().all())
                assert dropped > of_x + 2 * first or got.isnan().all()
            else:
                assert same(got, plain(x)), (dropped, number)
        live.close()


def goes_wrong(live: CompiledModel, plain: CompiledModel, inputs: int) -> bool:
    """Whether an answer is another than the CPU's, or does not come."""
    try:
        for seed in range(6):
            x = torch.randn(1, inputs) * 3
            state = other_weights(plain, seed)
            for model in (live, plain):
                model.swap(state)
            if not all(same(live(x), plain(x)) for _ in range(2)):
                return True
    except BackendUnavailable:
        return True
    finally:
        live.close()
    return False


@needs_compiler
@pytest.mark.parametrize(("group", "parts"), [(0, 1), (32, 1), (0, 3), (32, 2)])
def test_it_touches_nothing_outside_its_buffers(group: int, parts: int) -> None:
    """Every buffer of its own size, shared memory too, under a sanitizer; a buffer that is 16 bytes too short is found."""
    config = KernelConfig((37, 50, 9), ("relu", "gelu"), group, 64, (2, 4), (1, 0), parts=parts)
    kernel = cuda_kernel.kernel_of(config)
    program = on_host.build(kernel, "sanitized", "-DRTA_PROGRAM", "-fsanitize=address", "-fno-omit-frame-pointer")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)

    assert run().returncode == 0
    pointers = [name for name, kind in cuda_kernel.PARAMETERS if kind.startswith("*")]
    for name in ("request_ptr", "reply_ptr", "words_ptr", "numbers_ptr"):
        found = run(str(pointers.index(name)))
        assert found.returncode != 0 and "heap-buffer-overflow" in found.stderr, name


# -- layouts, machine code, choice -------------------------------------------------------------------------------------


def todays_budgets() -> Iterator[Any]:
    """The MLP for sm_90, and two of the other forms, others each day; tests/cuda_checks/budgets.py --check compiles all."""
    places = [(name, capability) for name in cuda_kernel.DECLARED for capability in SHARED_BYTES]
    day = 2 * datetime.date.today().toordinal()
    chosen = {("mlp 256-384-384-128 int8", 90), places[day % len(places)], places[(day + 1) % len(places)]}
    yield from (pytest.param(*place, id=f"{place[0]} sm_{place[1]}") for place in sorted(chosen))


@needs_triton
@needs_nvrtc
@pytest.mark.parametrize(("name", "capability"), list(todays_budgets()))
def test_its_code_is_within_its_budget(name: str, capability: int) -> None:
    from tests.cuda_checks import chain_budgets

    assert chain_budgets.BUDGETS.broken(name, capability, chain_budgets.BUDGETS.read()[name].get(str(capability))) == []


@needs_triton
def test_the_budget_file_says_what_the_layouts_are() -> None:
    from tests.cuda_checks import chain_budgets

    written = chain_budgets.BUDGETS.read()
    assert set(written) == set(cuda_kernel.DECLARED)
    for name, rows in written.items():
        for capability in SHARED_BYTES:
            found = cuda_kernel.declared(name, Card(capability))
            assert (str(capability) in rows) == (not isinstance(found, str))
            if isinstance(found, str):
                continue
            config, kernel = found
            row = rows[str(capability)]
            assert row["shared"] == kernel.shared_bytes <= SHARED_BYTES[capability] << 10
            assert row["in_registers"] + row["in_shared"] == config.steps * config.step_bytes
            assert row["parts"] == config.parts <= max(Card(capability).cluster, 1)
            assert row["registers"] <= min(65536 // config.all_threads, 255)


@pytest.mark.parametrize("case", CASES)
def test_small_chains_on_a_gpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout that is chosen; those that are clusters here are networks of one multiprocessor there."""
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000_000)  # bench/device/sanitizer.py runs it, and is slow
    on_a_gpu(CASES[case], 40, 2)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
@pytest.mark.parametrize(
    "widths",
    [(256, 384, 384, 128), cuda_kernel.AUTOENCODER, (256, 768, 768, 128)],
    ids=["mlp", "autoencoder", "cluster"],
)
def test_networks_on_a_gpu(widths: tuple[int, ...], scheme: str) -> None:
    on_a_gpu(Case(lambda: mlp(*widths), widths[0], scheme, 0, (), ()), 300, 3)


def on_a_gpu(case: Case, calls: int, starts: int) -> None:
    """The kernel on the card, started and ended several times, with other weights on the way, against the CPU's."""
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    plain = chains_on_cpu(case)
    with only(CUDA):
        for _ in range(starts):
            live = staying(plain)
            for at in range(calls):
                if at % 7 == 3:
                    state = other_weights(plain, at)
                    live.swap(state)
                    plain.swap(state)
                x = torch.randn(1, case.inputs)
                assert same(live(x), plain(x)), at
            live.close()


def chains_on_cpu(case: Case) -> CompiledModel:
    model: nn.Module = case.model().eval()
    data = [torch.randn(64, case.inputs)]
    found = rt.compile(model, (torch.randn(1, case.inputs),), scheme=case.scheme, calibration=data)
    assert isinstance(found, CompiledModel)
    return found

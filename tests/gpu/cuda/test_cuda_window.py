"""Windows of LSTM and GRU by the kernel in CUDA C++: the same source on a CPU against the contracts, to the bit; what it touches.

When it is taken, and what its machine code is made of: test_cuda_window_code.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels.recurrent.cases import behind, make_inputs, make_stage
from rtaccel.kernels.recurrent.cuda import window
from rtaccel.kernels.recurrent.cuda.window import Window
from rtaccel.kernels.recurrent.layout import Geometry
from tests.cuda_checks import on_host
from tests.cuda_checks.windows import GATES, HostLaunch, chosen, computed, cut, differing

pytestmark = [pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"), pytest.mark.turns(2)]

CUTS: dict[str, tuple[Any, ...]] = {
    "lstm-one": ("lstm", 1, 5, Geometry(7, layers=3, time=5), "int8-own", "float32", True, (1, 4, 7)),
    "lstm-more-layers-than-lanes": ("lstm", 1, 9, Geometry(40, layers=3, time=4), "int8-own", "float32", True, (1, 2, 30)),
    "lstm-no-lanes": ("lstm", 2, 3, Geometry(33, layers=2, time=3), "int8-static", "float32", False, (1, 1, 0)),
    "gru-three": ("gru", 2, 33, Geometry(10, layers=2, time=6, batch=2), "int8-static", "int8", False, (3, 32, 1)),
    "gru-one-layer": ("gru", 1, 130, Geometry(17, time=9, last_only=1), "int8-own", "float32", True, (2, 4, 2)),
    "lstm-last": ("lstm", 2, 21, Geometry(24, layers=2, time=2, batch=3, last_only=1), "int8-own", "int8", True, (2, 8, 9)),
    "lstm-int4": (
        "lstm", 1, 70, Geometry(42, layers=2, time=7, last_only=1, batch_first=1, batch=2), "int4-own", "float32", True,
        (2, 2, 9),
    ),
    "gru-int4": ("gru", 1, 100, Geometry(70, time=3), "int4-own", "float32", True, (3, 1, 100)),
    "lstm-states-after": ("lstm", 2, 9, Geometry(21, layers=2, time=4, batch=2), "int8-own", "int8", "after", (2, 4, 5)),
    "gru-states-after": ("gru", 1, 9, Geometry(12, time=3, last_only=1), "int8-static", "float32", "after", (1, 4, 5)),
    "lstm-int4-int8-x": ("lstm", 2, 40, Geometry(35, layers=3, time=4), "int4-static", "int8", False, (1, 4, 3)),
}  # fmt: skip
"""Op, samples, inputs, geometry, form, output, whether states, and (programs, lanes, steps in registers)."""


def stage_of(op: str, k: int, g: Geometry, form: str, out: str, states: bool | str, lengths: bool = False) -> Stage:
    seed = int(torch.randint(1 << 30, ()))
    return make_stage(op, GATES[op], g, k, form, out, states, seed=seed, lengths=lengths)


def group_of(form: str) -> int:
    return 32 if form.startswith("int4") else 0


@pytest.mark.parametrize("case", CUTS)
def test_the_bits_of_the_contract(case: str) -> None:
    """And in an order in which every other warp lags behind, and every other block starts late."""
    op, samples, k, g, form, out, states, (parts, lanes, kept) = CUTS[case]
    stage = stage_of(op, k, g, form, out, states)
    inputs, config = make_inputs(stage, samples, len(case)), cut(g, k, op, group_of(form), parts, lanes, kept)
    want = operator(op).reference(stage, *inputs)
    for seed in (1, 2, 6):
        got = computed(stage, inputs, config, HostLaunch(seed))
        assert differing(got, want) == [0] * len(want), seed


def counted() -> Iterator[Any]:
    for case in ("lstm-one", "lstm-states-after", "gru-three", "lstm-last", "lstm-int4"):
        for longest in (False, True):
            yield pytest.param(case, longest, id=f"{case}-longest" if longest else case)


@pytest.mark.parametrize(("case", "longest"), list(counted()))
def test_streams_of_fewer_time_steps(case: str, longest: bool) -> None:
    """What lies behind the last one of a stream is not read; a stream with a length outside is NaN where nobody looks."""
    op, samples, k, g, form, out, states, (parts, lanes, kept) = CUTS[case]
    stage = stage_of(op, k, g, form, out, states, lengths=True)
    if longest:
        stage = replace(stage, attrs={**stage.attrs, "longest": 1})
    x, lengths, *others = make_inputs(stage, samples, len(case))
    if longest:
        lengths[:, 0] = g.time
    behind(stage)(x, lengths, *others)
    config = cut(g, k, op, group_of(form), parts, lanes, kept)
    want = operator(op).reference(stage, x, lengths, *others)
    assert differing(computed(stage, (x, lengths, *others), config), want) == [0] * len(want)


def test_a_length_that_is_none_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a replay, where nobody looks at it."""
    g = Geometry(12, layers=2, time=4, batch=3)
    stage = stage_of("lstm", 6, g, "int8-own", "float32", True, lengths=True)
    x, lengths, *others = make_inputs(stage, 1, 3)
    lengths[0, :, 0] = torch.tensor([2, 0, 5])
    monkeypatch.setattr(window, "check_lengths", lambda stage, inputs: None)
    y, *after = computed(stage, (x, lengths, *others), cut(g, 6, "lstm", 0, 2, 4, 3))
    of_stream = g.time_steps(y)
    assert bool(of_stream[:, 1:].isnan().all()) and not bool(of_stream[:, 0].isnan().any())
    for state in after:
        assert [bool(s.isnan().all()) for s in g.streams(state).unbind(1)] == [False, True, True]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("out", ["float32", "int8"])
def test_what_is_not_finite_is_of_its_stream_alone(parts: int, out: str) -> None:
    """In x, at the last time step too, in h0 or in c0: all outputs of the stream are NaN, and those of others untouched."""
    g = Geometry(12, layers=2, time=3, batch=4, batch_first=1)
    stage = stage_of("lstm", 6, g, "int8-own", out, True)
    x, h, c = make_inputs(stage, 2, 5)
    g.time_steps(x)[-1, 1, 2] = float("inf")
    x[0, 1 * g.time + 2, 3] = float("nan")
    h[0, 2, 5], c[1, 4 + 3, 11] = float("nan"), float("-inf")
    want = operator("lstm").reference(stage, x, h, c)
    assert 0 < int(want[1].isnan().sum()) < want[1].numel()
    assert differing(computed(stage, (x, h, c), cut(g, 6, "lstm", 0, parts, 4, 3)), want) == [0, 0, 0]


STAC_ML = {
    "LSTM_A": ("lstm", 100, Geometry(100, layers=2, time=50, last_only=1, batch_first=1)),
    "LSTM_B": ("lstm", 250, Geometry(200, layers=3, time=100, last_only=1, batch_first=1)),
    "gru 64-128": ("gru", 64, Geometry(128, time=20, batch_first=1)),
}


@pytest.mark.parametrize("form", ["int8-own", "int4-own"])
@pytest.mark.parametrize("name", STAC_ML)
def test_windows_of_full_size(name: str, form: str) -> None:
    """In the form of an H100, with all of its threads, against the kernels of the CPU."""
    op, k, g = STAC_ML[name]
    stage = stage_of(op, k, g, form, "float32", False)
    inputs = make_inputs(stage, 1, 7)
    problem = Problem.of(stage, 1)
    impl = next(i for i in impls("cpu", op) if i.supports(problem) is None)
    want = impl.prepare(stage, problem)(*inputs)
    assert differing(computed(stage, inputs, chosen(stage)), want) == [0]


def lines_of(*words: str) -> list[int]:
    """Lines of the kernel's files that end with one of these calls; no two are alike."""
    files = ("recurrent/cuda/weights.h", "recurrent/cuda/stack.h", "recurrent/cuda/window.cu")
    lines = [line for name in files for line in enumerate((cuda_nvrtc.FOLDER / name).read_text().splitlines(), 1)]
    found = [n for n, line in lines if line.endswith(";") and any(word in line for word in words)]
    assert len(set(found)) == len(found), "two files have a barrier in the same line: move one of them"
    return found


def test_every_barrier_is_needed() -> None:
    """Where nobody waits at one of them, some order of the threads gives wrong answers: so the order of all others is decided."""
    op, samples, k, g, form, out, states, (_, lanes, kept) = CUTS["lstm-int4"]
    stage = stage_of(op, k, g, form, out, states)
    inputs = make_inputs(stage, samples, 9)
    want = operator(op).reference(stage, *inputs)

    def right(parts: int, seed: int, line: int) -> bool:
        config = cut(g, k, op, group_of(form), parts, lanes, kept)
        return not any(differing(computed(stage, inputs, config, HostLaunch(seed, line)), want))

    orders = [(parts, seed) for parts in (2, 1) for seed in (*range(1, 9), 11, 13, 20)]
    lines = [0, *lines_of("meet<", "__syncthreads();", "__syncwarp();", "meet_cluster();")]
    needless = [line for line in lines if all(right(*order, line) for order in orders)]
    # A cluster's barrier before its end is for blocks that gave up a word (tests/gpu/protocols/cluster.py).
    assert needless == [0, lines_of("meet_cluster();")[-1]]


@pytest.mark.parametrize("dropped", [0, 3, 7, 11])
def test_a_word_that_does_not_come(dropped: int) -> None:
    """Wave 2 lacks a word: what is made without it is NaN, and no number is another than that of the contract."""
    g, k = Geometry(24, layers=2, time=6), 9
    stage = stage_of("lstm", k, g, "int8-own", "float32", True)
    inputs, config = make_inputs(stage, 1, 11), cut(g, k, "lstm", 0, 2, 4, 5)
    want = operator("lstm").reference(stage, *inputs)
    slot = 6 * (2 * (dropped // 6) + 1) + dropped % 6  # of both slots of a layer, the second
    got = computed(stage, inputs, config, HostLaunch(dropped=slot, looks=400))
    for g_, w in zip(got, want):
        assert bool(((g_ == w) | g_.isnan()).all())
    assert bool(got[0].isnan().any())


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("form", ["int8-own", "int4-static"])
def test_it_touches_nothing_outside_its_buffers(parts: int, form: str) -> None:
    """Every buffer of its own size, shared memory too, under a sanitizer; a buffer that is 16 bytes too short is found."""
    g = Geometry(30, layers=2, time=4, batch=2)
    config = cut(g, 37, "lstm", group_of(form), parts, 2, 3)
    kernel = Window("lstm", config, True, True, x="int8" if form.endswith("static") else "float32", kept=True).kernel
    program = on_host.build(kernel, "sanitized", "-DRTA_PROGRAM", "-fsanitize=address", "-fno-omit-frame-pointer")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)

    assert run().returncode == 0, run().stderr
    pointers = [name for name, kind in window.PARAMETERS if kind.startswith("*")]
    for name in pointers:
        if name == "scales_ptr" and not group_of(form):
            continue
        found = run(str(pointers.index(name)))
        assert found.returncode != 0 and "heap-buffer-overflow" in found.stderr, name

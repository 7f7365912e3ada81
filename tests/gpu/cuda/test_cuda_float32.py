"""Float32 windows by the kernel in CUDA C++: the same source on a CPU against the contracts; what it touches; lost words.

When it is taken, and what its machine code is made of: test_cuda_float32_code.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.kernels._persistent.card import Card
from rtaccel.kernels.recurrent.cases import behind, make_inputs, make_stage
from rtaccel.kernels.recurrent.cuda.float32 import layer as layers_of_cuda
from rtaccel.kernels.recurrent.cuda.float32.config import select_layer
from rtaccel.kernels.recurrent.cuda.float32.layer import CudaLayer
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import float32
from rtaccel.kernels.recurrent.triton.float32 import GATES, LayerForm
from tests.cuda_checks import on_host
from tests.cuda_checks.float32 import layers
from tests.cuda_checks.float32.layers import HostLaunch, computed, cut, far

pytestmark = pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler")

CUTS: dict[str, tuple[Any, ...]] = {
    "lstm-one": ("lstm", 1, 5, Geometry(7, layers=3, time=5), True, (1, 4, 7)),
    "lstm-no-lanes": ("lstm", 2, 3, Geometry(33, layers=2, time=3), False, (1, 1, 5)),
    "lstm-in-both-directions": ("lstm", 2, 9, Geometry(24, layers=2, directions=2, time=4, batch=2), True, (2, 2, 8)),
    "lstm-last": ("lstm", 2, 21, Geometry(24, layers=2, time=2, batch=3, last_only=1), True, (2, 8, 4)),
    "gru-three": ("gru", 2, 33, Geometry(10, layers=2, time=6, batch=2, batch_first=1), False, (3, 32, 1)),
    "gru-last-of-both": ("gru", 1, 13, Geometry(17, directions=2, time=9, last_only=1, batch_first=1), True, (2, 4, 2)),
    "tanh": ("rnn_tanh", 3, 4, Geometry(21, layers=2, time=7, batch=2), True, (3, 2, 1)),
    "relu": ("rnn_relu", 1, 40, Geometry(64, directions=2, time=8), False, (1, 16, 100)),
}  # fmt: skip
"""Op, samples, inputs, geometry, whether states, and (programs, lanes, steps in registers)."""


def stage_of(op: str, k: int, g: Geometry, states: bool, lengths: bool = False) -> Stage:
    seed = int(torch.randint(1 << 30, ()))
    print(f"seed {seed}")
    return make_stage(op, GATES[op], g, k, states=states, bias=seed % 3 > 0, seed=seed, lengths=lengths)


@pytest.mark.parametrize("case", CUTS)
def test_the_contract(case: str) -> None:
    """And in an order in which every other warp lags behind, and every other block starts late."""
    op, samples, k, g, states, (parts, lanes, kept) = CUTS[case]
    stage = stage_of(op, k, g, states)
    inputs, config = make_inputs(stage, samples, len(case)), cut(g.hidden, op, parts, lanes, kept)
    want = operator(op).reference(stage, *inputs)
    first = computed(stage, inputs, config)
    assert far(stage, inputs, first, want) == [0] * len(want)
    for seed in (2, 6):
        assert all(map(torch.equal, computed(stage, inputs, config, HostLaunch(seed)), first)), seed


def counted() -> Iterator[Any]:
    for case in CUTS:
        for longest in (False, True):
            yield pytest.param(case, longest, id=f"{case}-longest" if longest else case)


@pytest.mark.turns(2)
@pytest.mark.parametrize(("case", "longest"), list(counted()))
def test_streams_of_fewer_time_steps(case: str, longest: bool) -> None:
    """What lies behind the last one of a stream is not read."""
    op, samples, k, g, states, (parts, lanes, kept) = CUTS[case]
    stage = stage_of(op, k, g, states, lengths=True)
    if longest:
        stage = replace(stage, attrs={**stage.attrs, "longest": 1})
    x, lengths, *others = make_inputs(stage, samples, len(case))
    if longest:
        lengths[:, 0] = g.time
    behind(stage)(x, lengths, *others)
    inputs = (x, lengths, *others)
    want = operator(op).reference(stage, *inputs)
    assert far(stage, inputs, computed(stage, inputs, cut(g.hidden, op, parts, lanes, kept)), want) == [0] * len(want)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("last", [0, 1])
def test_a_length_that_is_none_is_nan(parts: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a replay, where nobody looks at it."""
    g = Geometry(12, layers=2, directions=2, time=4, batch=3, last_only=last)
    stage = stage_of("lstm", 6, g, True, lengths=True)
    x, lengths, *others = make_inputs(stage, 1, 3)
    lengths[0, :, 0] = torch.tensor([4, 0, 5])
    monkeypatch.setattr(float32, "check_lengths", lambda stage, inputs: None)
    y, *after = computed(stage, (x, lengths, *others), cut(12, "lstm", parts, 4, 3))
    of_stream = y.view(1, 1 if last else 4, 3, 24)
    assert bool(of_stream[:, :, 1:].isnan().all()) and not bool(of_stream[:, :, 0].isnan().any())
    for state in after:
        assert [bool(s.isnan().all()) for s in g.streams(state).unbind(1)] == [False, True, True]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("op", GATES)
def test_what_is_not_finite_goes_where_the_formula_takes_it(op: str, parts: int) -> None:
    """From its time step on, and into no other stream. With weights that are zero an infinity is NaN, as in the contract."""
    g = Geometry(12, time=5, batch=3)
    stage = stage_of(op, 6, g, False)
    stage.tensors["weight_ih_l0"][:, 2] = 0.0
    (x,) = make_inputs(stage, 2, 5)
    of_stream = x.view(2, g.time, g.batch, 6)
    of_stream[0, 3, 1, 2], of_stream[1, 1, 1, 3] = float("inf"), float("nan")
    want = operator(op).reference(stage, x)
    assert [int(s.isnan().sum()) for s in g.time_steps(want[0]).unbind(1)] == [0, 24, 0, 0, 48, 0]
    assert far(stage, (x,), computed(stage, (x,), cut(12, op, parts, 4, 3)), want) == [0]


FULL = {
    "LSTM_A": ("lstm", 100, Geometry(100, layers=2, time=50, last_only=1, batch_first=1)),
    "LSTM_B": ("lstm", 250, Geometry(200, layers=3, time=20, last_only=1, batch_first=1)),
    "gru 64-128": ("gru", 64, Geometry(128, time=20, batch_first=1)),
    "lstm 512": ("lstm", 16, Geometry(512, time=3)),
}


@pytest.mark.parametrize("name", FULL)
def test_windows_of_full_size(name: str) -> None:
    """In the form of an H100, with all of its threads."""
    op, k, g = FULL[name]
    stage = stage_of(op, k, g, False)
    inputs = make_inputs(stage, 1, 7)
    config = select_layer(g.hidden, GATES[op], g.time, 1, Card())
    assert config is not None
    want = operator(op).reference(stage, *inputs)
    assert far(stage, inputs, computed(stage, inputs, config), want) == [0]


@pytest.mark.parametrize("op", GATES)
def test_any_other_batch(op: str) -> None:
    """Prepared for one sample; of more streams than a grid has, several launches."""
    g = Geometry(9, layers=2, directions=2, time=3)
    stage = stage_of(op, 5, g, True)
    call = layers.prepared(stage, 1, cut(9, op, 1, 4, 4))
    for samples in (0, 1, 7):
        inputs = tuple(t[:samples] for t in make_inputs(stage, 8, samples))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers_of_cuda, "MAX_STREAMS", 3)
            got = call(*inputs)
        assert all(y.shape[0] == samples for y in got)
        if samples:
            assert not any(far(stage, inputs, got, operator(op).reference(stage, *inputs)))


def lines_of(*words: str) -> list[int]:
    """Lines of the kernel that end with one of these calls."""
    text = (cuda_nvrtc.FOLDER / "recurrent/cuda/float32/layer.cu").read_text().splitlines()
    return [n for n, line in enumerate(text, 1) if line.endswith(";") and any(word in line for word in words)]


@pytest.mark.turns(3)
def test_every_barrier_is_needed() -> None:
    """Where nobody waits at one of them, some order of the threads gives wrong answers: so the order of all others is decided."""
    g = Geometry(22, time=5)
    stage = stage_of("lstm", 7, g, True)
    inputs = make_inputs(stage, 1, 9)
    want = operator("lstm").reference(stage, *inputs)

    def right(parts: int, seed: int, line: int) -> bool:
        return not any(
            far(stage, inputs, computed(stage, inputs, cut(22, "lstm", parts, 8, 3), HostLaunch(seed, line)), want)
        )

    orders = [(parts, seed) for parts in (1, 2) for seed in (*range(1, 9), 11, 13, 20)]
    lines = [0, *lines_of("__syncthreads();", "meet_cluster();")]
    needless = [line for line in lines if all(right(*order, line) for order in orders)]
    # A cluster's barrier before its end is for blocks that gave up a word (tests/gpu/protocols/cluster.py).
    assert needless == [0, lines_of("meet_cluster();")[-1]]


@pytest.mark.parametrize("dropped", [0, 5, 11, 17, 23])
def test_a_word_that_does_not_come(dropped: int) -> None:
    """Time step 2 lacks a word: all of that direction is NaN, and no number is another than the contract's."""
    g, k = Geometry(24, layers=2, time=6, directions=2), 9
    stage = stage_of("lstm", k, g, True)
    inputs, config = make_inputs(stage, 1, 11), cut(24, "lstm", 2, 4, 5)
    want = operator("lstm").reference(stage, *inputs)
    got = computed(stage, inputs, config, HostLaunch(dropped=dropped, looks=400))
    tolerance = operator("lstm").tolerance(stage, *inputs)
    for g_, w in zip(got, want):
        assert bool((tolerance.within(g_, w) | g_.isnan()).all())
    assert bool(got[0].isnan().any())


@pytest.mark.turns(3)
@pytest.mark.parametrize(("op", "parts"), [("lstm", 1), ("lstm", 2), ("gru", 3)])
def test_it_touches_nothing_outside_its_buffers(op: str, parts: int) -> None:
    """Every buffer of its own size, shared memory too, under a sanitizer; a buffer that is 16 bytes too short is found."""
    g = Geometry(30, layers=2, directions=2, time=4, batch=2)
    form = LayerForm(op, g, 1, given=True, kept=True, lengths=True)
    kernel = CudaLayer(form, cut(30, op, parts, 2, 3)).kernel
    flags = ("-DRTA_PROGRAM", "-fsanitize=address", "-fno-omit-frame-pointer")
    program = on_host.build(kernel, "sanitized", *flags)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)

    assert run().returncode == 0, run().stderr
    pointers = [name for name, kind in layers_of_cuda.PARAMETERS if kind.startswith("*")]
    unused = {"lstm": ("bias_n_ptr",), "gru": ("c0_ptr", "cn_ptr")}[op]
    for name in pointers:
        if name not in unused:
            found = run(str(pointers.index(name)))
            assert found.returncode != 0 and "heap-buffer-overflow" in found.stderr, name

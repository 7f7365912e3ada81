"""Other weights for chains and recurrent stacks while their kernels run in Triton: the bits of the CPU after the same swap, by
the kernel that was started at first. Started by tests/gpu/test_triton_interpreter.py.

Whether caches of a card are emptied the interpreter cannot show: tests/gpu/protocols/weights.py has that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage
from rtaccel.kernels._persistent import triton_mailbox
from rtaccel.kernels.linear.contract import make_stage as make_linear
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.triton import partition, persistent
from rtaccel.kernels.mlp.triton.config import Operands
from rtaccel.kernels.mlp.triton.partition_config import Partition
from rtaccel.kernels.recurrent.cases import make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import persistent as recurrent
from rtaccel.kernels.recurrent.triton.config import KernelConfig
from rtaccel.kernels.recurrent.triton.config import Operands as StackOperands
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu.persistent_weights import WeightSets
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks.streams import Net, other_weights, same
from tests.triton_checks.support.interpreted_device import TIMEOUT_NS, in_its_place
from tests.triton_checks.support.sides import DEVICE, INTERPRET, LOOK, Side

require("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

Pair = tuple[Any, Any]
"""A model on a persistent kernel, and the same on the CPU."""


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if INTERPRET:
        monkeypatch.setattr(recurrent, "SPINS_PER_LOOK", tl.constexpr(LOOK))
    yield from in_its_place(monkeypatch, persistent)


def chain(scheme: Any) -> Pair:
    torch.manual_seed(11)
    net = nn.Sequential(nn.Linear(20, 70), nn.LeakyReLU(), nn.Linear(70, 33), nn.ReLU(), nn.Linear(33, 5)).eval()
    plain = rt.compile(net, (torch.randn(1, 20),), scheme=scheme, calibration=[torch.randn(64, 20)])
    assert isinstance(plain, CompiledModel)
    live = CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)
    return live, plain


def stream(stack: nn.Module, head: nn.Module | None) -> Pair:
    plain = rt.stream(Net(stack, head).eval(), torch.randn(1, 9), scheme="w8a8", calibration=[torch.randn(8, 5, 9)])
    return StreamModel(plain._program, replace(plain._options, mode="persistent"), ("x_t",)), plain


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: chain("w8a8"), 20),
        (lambda: chain(rt.W4A8(group_size=32, activation="static")), 20),
        (lambda: stream(nn.LSTM(9, 20, 2, batch_first=True), nn.Linear(20, 3)), 9),
        (lambda: stream(nn.GRU(9, 13, batch_first=True), None), 9),
    ],
    ids=["chain", "chain-int4", "lstm-head", "gru"],
)
def test_the_bits_of_the_cpu_after_a_swap(make: Callable[[], Pair], width: int) -> None:
    """Swaps and rollbacks between calls, with a reset of a stream in one message, and a restart."""
    live, plain = make()
    streamed = isinstance(live, StreamModel)
    states = [other_weights(plain, seed) for seed in (1, 2, 3)]

    def reset(m: Any) -> None:
        if streamed:
            m.reset()

    def call() -> Tensor:
        x = torch.randn(1, width)
        got, want = (live.step(x), plain.step(x)) if streamed else (live(x), plain(x))
        assert same(got, want)
        return got

    given: list[Callable[[Any], Any]] = [
        lambda m: None, lambda m: m.swap(states[0]), lambda m: None, lambda m: m.rollback(), lambda m: m.rollback(),
        lambda m: (m.swap(states[1]), reset(m)), lambda m: (m.swap(states[2]), m.rollback()),
        lambda m: (m.swap(states[0]), m.swap(states[2])), lambda m: None,
    ]  # fmt: skip
    kernel = None
    for what in given:
        what(live)
        what(plain)
        call()
        assert not live.swap_pending
        kernel = kernel or live._executor.steps[0].plan._kernel._running
        assert live._executor.steps[0].plan._kernel._running is kernel
    live.suspend()  # a new kernel begins with the set that was used last, and goes on
    call()
    live.swap(states[1])  # while it runs; then ended with the order not sent
    plain.swap(states[1])
    live.suspend()
    call()
    live.close()


def test_other_scales_are_refused() -> None:
    live, plain = chain("w8a8")
    state = other_weights(plain, 4)
    scale = next(key for key, entry in plain._state.entries.items() if entry.kind == "scale")
    x = torch.randn(1, 20)
    assert same(live(x), plain(x))
    with pytest.raises(FormatError, match="swap"):
        live.swap({**state, scale: state[scale] * 2})
    assert same(live(x), plain(x)) and not live.swap_pending
    live.close()


def changed(stage: Stage, seed: int) -> Stage:
    """The same with other weights and the same static scales."""
    g = torch.Generator().manual_seed(seed)
    tensors = {
        name: t.flatten()[torch.randperm(t.numel(), generator=g)].view_as(t)
        if t.dtype in (torch.int8, torch.uint8)
        else (t * 0.75).bfloat16().float()
        if t.is_floating_point()
        else t
        for name, t in stage.tensors.items()
    }
    return replace(stage, tensors=tensors)


def shared(sets: WeightSets) -> WeightSets:
    """In memory that processes side by side see change."""
    if INTERPRET:
        sets.tensors = {name: t.share_memory_() for name, t in sets.tensors.items()}
    return sets


def exchanged(sets: WeightSets, packed: Any, made: Side) -> None:
    sets.exchange(packed, made.box, lambda work: work())


@pytest.mark.parametrize(("widths", "programs", "group"), [((9, 24, 17), 2, 0), ((9, 24, 40, 3), 3, 16)])
def test_a_network_that_is_cut(widths: tuple[int, ...], programs: int, group: int, side: Callable[..., Side]) -> None:
    """Of the three programs one has no output of the last layer: it answers nothing, and reads its set nevertheless."""
    first = contract.make_stage(widths, ("relu",) * (len(widths) - 2) + ("none",), group_size=group)
    stages, cut = [first, changed(first, 5), changed(first, 6)], Partition(widths, group, programs)
    packed = [Operands.of(stage, cut, "cpu").weights for stage in stages]
    sets, scalars = shared(WeightSets(packed[0], DEVICE)), Operands.of(first, cut, "cpu").scalars
    exchange = torch.zeros(cut.exchange_words, dtype=torch.int64, device=DEVICE)
    made = side(widths[0], widths[-1], commands=True)
    given = {"exchange_ptr": exchange, **sets.tensors, **scalars, "idle_looks": 0, "second": 0}
    made.start(partition.specialize_persistent(first.attrs, cut), given, programs=programs)
    for message, which in enumerate((0, 1, 1, 2, 0, 2)):
        exchanged(sets, packed[which], made)
        x, y = torch.randn(1, widths[0]), torch.full((1, widths[-1]), 7.0)
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
        assert same(y, operator("mlp").reference(stages[which], x)[0]), message
    assert made.end() == triton_mailbox.ABORTED


@pytest.mark.parametrize("with_head", [True, False])
def test_programs_that_share_a_stream(with_head: bool, side: Callable[..., Side]) -> None:
    """A reset and other weights in one message, too. Of two layers one is read again in each time step."""
    k, hidden, outputs = 10, 13, 3 if with_head else 13
    stage = make_stage("lstm", 4, Geometry(hidden, layers=2), k, "int8-own", "int8" if with_head else "float32", seed=4)
    following = make_linear(hidden, outputs, "static", "relu")
    if with_head:  # its scale is that of what the stack gives
        quant = following.inputs[0].quant
        assert isinstance(quant, QParams)
        value = replace(stage.outputs[0], quant=quant)
        stage = replace(stage, outputs=(value, *stage.outputs[1:]))
    both = [(stage, following), (changed(stage, 7), changed(following, 8)), (changed(stage, 9), changed(following, 10))]
    form = KernelConfig(Geometry(hidden, layers=2), k, 4, 8, 2, 1)
    packed, scalars = [], []
    for stack, head in both:
        ops = StackOperands.of(operator("lstm").lower(stack), form, "cpu")
        low = operator("linear").lower(head) if with_head else None
        packed.append(recurrent.weights_of(ops, recurrent.HeadOperands.of(low, form, "cpu")))
        scalars.append(recurrent.scalars_of(ops))
    assert scalars[0] == scalars[1] == scalars[2]
    sets = shared(WeightSets(packed[0], DEVICE))
    exchange = torch.zeros(recurrent.exchange_words(form), dtype=torch.int64, device=DEVICE)
    made = side(k, outputs, commands=True)
    past = torch.zeros(2 * recurrent.past_numbers(form) + 1, device=DEVICE)
    given = {"exchange_ptr": exchange, "past_ptr": past, **sets.tensors, **scalars[0], "idle_looks": 0, "second": 0}
    made.start(recurrent.specialize("lstm", form, outputs, "relu" if with_head else None), given, programs=form.parts)
    states = [torch.zeros(1, 2, hidden)] * 2
    for time_step, which in enumerate((0, 1, 1, 2, 0, 2, 2)):
        exchanged(sets, packed[which], made)
        x, y = torch.randn(1, k), torch.full((1, outputs), 7.0)
        command = int(time_step == 4)
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS, command)
        if command:
            states = [torch.zeros(1, 2, hidden)] * 2
        want, *states = operator("lstm").reference(both[which][0], x, *states)
        if with_head:
            (want,) = operator("linear").reference(both[which][1], want)
        assert torch.equal(y, want), time_step
    assert made.end() == triton_mailbox.ABORTED

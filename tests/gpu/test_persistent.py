"""The persistent path: the host's side against a thread that plays the kernel, and a GPU where there is
one. The kernel in the interpreter is in tests/triton_checks/check_persistent.py."""

from __future__ import annotations

import gc
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import get_backend
from rtaccel.core.errors import BackendUnavailable, ShapeError, UnsupportedProblem
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent, persistent_choice
from rtaccel.runtime.options import Options
from tests.support.fake_kernel import FakeCard

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


class Newest(nn.Module):
    """A stack, and a head on its newest time step."""

    def __init__(self, stack: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stack, self.head = stack, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x)[0][:, -1])


class Causal(nn.Module):
    """Four convolutions of three taps with residuals, and a head on the newest time step."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        widths = (features, *[channels] * 4)
        self.convs = nn.ModuleList(nn.Conv1d(c, n, 3, dilation=2**i) for i, (c, n) in enumerate(pairwise(widths)))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            y = torch.relu(conv(nn.functional.pad(x, (2 * 2**i, 0))))
            x = x + y if i else y
        return self.head(x[:, :, -1])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    made = FakeCard()
    monkeypatch.setattr(persistent, "persistent_device", lambda: made)
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 5_000_000_000)
    with persistent_choice.only(persistent_choice.TRITON):  # whether NVRTC is here or not: a thread plays the kernel
        yield made
    for kernel in made.kernels:
        kernel._control[0] = 1


def persistent_and_plain(
    model: nn.Module, scheme: str = "w8a8", calibrated: bool = True
) -> tuple[CompiledModel, CompiledModel]:
    """(the model on a kernel that a thread plays, the same launched layer by layer)."""
    x = torch.randn(1, 20)
    calibration = [torch.randn(64, 20)] if calibrated else None
    plain = rt.compile(model, (x,), backend="portable", scheme=scheme, calibration=calibration)
    assert isinstance(plain, CompiledModel)
    options = Options(1, "cpu", None, 1, "Net", mode="persistent")
    return CompiledModel(plain._program, options, plain._argument_names), plain


def test_calls_are_answered(card: FakeCard) -> None:
    fast, plain = persistent_and_plain(network())
    y = torch.full((1, 5), float("nan"))
    x = torch.randn(1, 20)
    step = fast.bind(x, out=y)
    for _ in range(10):
        x.normal_()
        want = plain(x)
        assert torch.equal(fast(x), want)
        assert fast.run(x, out=y) is y
        assert torch.equal(y, want)
        y.fill_(float("nan"))
        step()
        assert torch.equal(y, want)
    (kernel,) = card.kernels
    assert kernel.answered == 30
    fast.close()
    assert kernel.finished()
    assert kernel._control[1] == 2


def wide(model: nn.Sequential, columns: Tensor) -> nn.Sequential:
    """With weights as small as the columns are large, as training makes them: calibration brings the columns to one range."""
    with torch.no_grad():
        model[0].weight /= columns
    return model


@pytest.mark.parametrize("layers", [2, 3])
def test_the_host_brings_columns_to_one_range(card: FakeCard, layers: int) -> None:
    """With the bits of the CPU, also where a kernel starts again."""
    columns = torch.logspace(-1.5, 1.5, 20)
    model = wide(network()[: 2 * layers - 1].eval(), columns)
    plain = rt.compile(model, (torch.randn(1, 20),), backend="portable", scheme="w8a8",
                       calibration=[torch.randn(256, 20) * columns])  # fmt: skip
    assert isinstance(plain, CompiledModel) and "brought to one range" in str(plain.explain(measure=False))
    options = Options(1, "cpu", None, 1, "Net", mode="persistent")
    fast = CompiledModel(plain._program, options, plain._argument_names)
    for _ in range(3):
        x = torch.randn(1, 20) * columns
        assert torch.equal(fast(x), plain(x))
        fast.suspend()
    x[0, 7] = float("nan")
    assert fast(x).isnan().all()
    fast.close()


def test_a_row_without_meaning_is_nan(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    x = torch.randn(1, 20)
    x[0, 7] = float("nan")
    assert fast(x).isnan().all()
    assert fast(torch.randn(1, 20)).isfinite().all()


def test_explain_says_what_stays(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    text = fast.explain(measure=False)
    assert "one persistent kernel: it is loaded and starts with the first call" in text
    fast(torch.randn(1, 20))
    assert "one persistent kernel: it runs" in fast.explain(measure=False)
    assert "triton_persistent" in text
    fast.close()
    assert "it was closed" in fast.explain(measure=False)


def test_a_closed_model_says_so(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    fast.close()
    fast.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        fast(torch.randn(1, 20))


def test_a_model_that_is_gone_leaves_no_kernel(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    fast(torch.randn(1, 20))
    (kernel,) = card.kernels
    del fast
    gc.collect()
    assert kernel.finished()


def test_new_weights_get_a_new_kernel(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    other, plain = persistent_and_plain(network())
    x = torch.randn(1, 20)
    fast(x)
    (first,) = card.kernels
    fast.load_state_dict(other.state_dict())
    assert first.finished()
    assert torch.equal(fast(x), plain(x))
    assert len(card.kernels) == 2


def test_several_models_at_once(card: FakeCard) -> None:
    pairs = [persistent_and_plain(network()) for _ in range(4)]
    failed: list[str] = []

    def use(fast: CompiledModel, wants: list[tuple[Tensor, Tensor]]) -> None:
        for x, want in wants:
            if not torch.equal(fast(x), want):
                failed.append("differs")

    work = []
    for fast, plain in pairs:
        xs = [torch.randn(1, 20) for _ in range(20)]
        work.append((fast, [(x, plain(x)) for x in xs]))
    threads = [threading.Thread(target=use, args=w) for w in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    assert [k.answered for k in card.kernels] == [20] * 4


def test_no_answer_is_an_error_and_not_a_hang(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000)
    card.mute = True
    fast, _ = persistent_and_plain(network())
    with pytest.raises(BackendUnavailable, match=r"no answer in 0.02 s; it runs, it still looks"):
        fast(torch.randn(1, 20))
    assert card.kernels[0].finished()
    with pytest.raises(BackendUnavailable, match="no answer"):
        fast(torch.randn(1, 20))


def test_a_kernel_that_does_not_start_is_an_error(card: FakeCard) -> None:
    card.never_starts = True
    fast, _ = persistent_and_plain(network())
    with pytest.raises(BackendUnavailable, match="did not start"):
        fast(torch.randn(1, 20))


def test_a_card_that_may_not_keep_a_kernel(card: FakeCard) -> None:
    card.reason = "GeForce drives a display, and the driver ends kernels that run for seconds"
    with pytest.raises(BackendUnavailable, match="drives a display") as caught:
        persistent_and_plain(network())
    assert "mode='graph'" in str(caught.value)


def test_what_does_not_fit_is_named(card: FakeCard) -> None:
    with pytest.raises(UnsupportedProblem, match="static scales"):
        persistent_and_plain(network(), calibrated=False)  # rows of their own scale
    with pytest.raises(UnsupportedProblem, match="static scales"):
        persistent_and_plain(network(), "w8a16")
    wide = nn.Sequential(nn.Linear(20, 1030), nn.ReLU(), nn.Linear(1030, 200), nn.ReLU(), nn.Linear(200, 5)).eval()
    with pytest.raises(UnsupportedProblem, match=r"132 KiB.*up to 1024"):
        persistent_and_plain(wide)
    gelu = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.Linear(32, 5)).eval()
    with pytest.raises(UnsupportedProblem, match="chain"):
        persistent_and_plain(gelu)
    assert not card.kernels


def test_int4_weights_stay_with_the_bits_of_the_cpu(card: FakeCard) -> None:
    fast, plain = persistent_and_plain(network(), "w4a8")
    native = rt.compile(
        network(), (torch.randn(1, 20),), backend="cpu", scheme="w4a8", calibration=[torch.randn(64, 20)]
    )
    native.load_state_dict(plain.state_dict())
    for _ in range(20):
        x = torch.randn(1, 20)
        assert torch.equal(fast(x), native(x))
    assert "int4 weights in groups of 32 are in registers" in fast.explain(measure=False)
    fast.close()


def test_a_chain_that_several_multiprocessors_hold(card: FakeCard) -> None:
    model = nn.Sequential(nn.Linear(20, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5)).eval()
    fast, plain = persistent_and_plain(model)
    x = torch.randn(1, 20)
    assert torch.equal(fast(x), plain(x))
    assert "triton_persistent_partition" in fast.explain(measure=False)
    fast.close()


def test_one_row_of_the_host(card: FakeCard) -> None:
    fast, _ = persistent_and_plain(network())
    with pytest.raises(ShapeError, match="max_batch=1"):
        fast(torch.randn(2, 20))
    x, y = torch.randn(1, 20), torch.empty(1, 5)
    step = fast.bind(x, out=y)
    x.set_(torch.randn(1, 20))
    with pytest.raises(ShapeError, match="Bind again"):
        step()


def test_a_stack_stays_as_a_stream_alone(card: FakeCard) -> None:
    model = Newest(nn.GRU(20, 16, batch_first=True), nn.Linear(16, 5)).eval()
    plain = rt.compile(model, (torch.randn(1, 6, 20),), scheme="w8a8", calibration=[torch.randn(8, 6, 20)])
    with pytest.raises(UnsupportedProblem, match=r"rt\.stream"):
        CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)
    for wrong, said in (({"mode": "graph"}, "device='cuda'"), ({"device": "tpu"}, "tpu")):
        with pytest.raises((UnsupportedProblem, BackendUnavailable), match=said):
            rt.stream(model, torch.randn(1, 20), scheme="w8a8", calibration=[torch.randn(8, 6, 20)], **wrong)
    assert not card.kernels


def test_without_a_gpu_the_reason_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailable, match="CUDA GPU"):
        rt.compile(network(), (torch.randn(1, 20),), device="cuda", mode="persistent")
    model = Newest(nn.GRU(20, 16, batch_first=True), nn.Linear(16, 5)).eval()
    with pytest.raises(BackendUnavailable, match="CUDA GPU"):
        rt.stream(model, torch.randn(1, 20), device="cuda")
    with pytest.raises(UnsupportedProblem, match="device='cuda'"):
        rt.compile(network(), (torch.randn(1, 20),), mode="persistent")


# -- the mailbox of the native core -----------------------------------------------------------------------------------


def test_on_a_gpu() -> None:
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    model, calibration = network(), [torch.randn(64, 20)]
    plain = rt.compile(model, (torch.randn(1, 20),), scheme="w8a8", calibration=calibration)
    for _ in range(50):
        fast = rt.compile(
            model, (torch.randn(1, 20),), scheme="w8a8", calibration=calibration, device="cuda", mode="persistent"
        )
        for _ in range(200):
            x = torch.randn(1, 20)
            assert torch.equal(fast(x), plain(x))
        fast.close()


@pytest.mark.parametrize(
    ("make", "features", "hidden"),
    [
        (lambda: nn.LSTM(32, 64, 2, batch_first=True), 32, 64),
        (lambda: nn.GRU(40, 100, 2, batch_first=True), 40, 100),
        (lambda: nn.LSTM(250, 200, 3, batch_first=True), 250, 200),
        (lambda: nn.LSTM(500, 1000, 4, batch_first=True), 500, 1000),
        (lambda: Causal(40, 64), 40, 64),
    ],
    ids=["lstm-64", "gru-100", "lstm-200", "lstm-1000", "convolutions"],
)
def test_streams_on_a_gpu(make: Callable[[], nn.Module], features: int, hidden: int) -> None:
    """One multiprocessor and many, with resets, started and ended several times."""
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    made = make()
    causal = isinstance(made, Causal)
    model = made.eval() if causal else Newest(made, nn.Linear(hidden, 5)).eval()
    calibration = [torch.randn(4, features, 40) if causal else torch.randn(4, 9, features)]
    step = torch.randn(1, features)
    plain = rt.stream(model, step, scheme="w8a8", calibration=calibration)
    for _ in range(5):
        live = rt.stream(model, step, scheme="w8a8", calibration=calibration, device="cuda")
        plain.reset()
        for time_step in range(300):
            if time_step % 100 == 50:
                live.reset()
                plain.reset()
            x = torch.randn(1, features)
            assert torch.equal(live.step(x), plain.step(x)), time_step
        live.close()


def in_child(work: Callable[[], str]) -> str:
    """What a forked child says, which ends as an interpreter does."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"raised {type(error).__name__}: {error}"
        os.write(writes, said.encode())
        gc.collect()
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_leaves_the_kernel_alone(card: FakeCard) -> None:
    """It answers the parent, and its memory is the parent's: the child gets a typed error, and sends nothing."""
    fast, plain = persistent_and_plain(network())
    x, y = torch.randn(1, 20), torch.empty(1, 5)
    step = fast.bind(x, out=y)
    step()
    number = fast._executor.steps[0].plan._kernel.box.number

    def calls() -> str:
        found = []
        for call in (step, lambda: fast(x), lambda: fast.run(x, out=y), fast.seal):
            try:
                call()
                found.append("answered")
            except BackendUnavailable as error:
                found.append("spawn" if "Start processes by spawn" in str(error) else str(error))
        fast.suspend()
        fast.close()
        return " ".join([*found, str(fast._executor.steps[0].plan._kernel.box.number - number)])

    assert in_child(calls) == "spawn spawn spawn spawn 0"
    assert not card.kernels[0].finished()
    assert torch.equal(fast(x), plain(x)) and len(card.kernels) == 1

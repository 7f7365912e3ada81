"""fast.swap: other weights between two calls, from any thread; the past of streams goes on; what does not fit changes nothing."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from tests.support import stages
from tests.support.compare import quiet


def pair(name: str, scheme: str) -> tuple[rt.CompiledModel, dict[str, torch.Tensor], rt.CompiledModel]:
    """A model, a state with other weights that fits it, and a model that computes with that state."""
    first = copy.deepcopy(stages.shared(name, scheme, 1))
    other = dict(stages.shared(name, scheme, 2).state_dict())
    own = first.state_dict()
    for key, entry in first._state.entries.items():
        if entry.kind != "tensor":
            other[key] = own[key]
    other["structure"] = own["structure"]
    wanted = copy.deepcopy(first)
    wanted.load_state_dict(other)
    return first, other, wanted


def first_of(result: object) -> torch.Tensor:
    """The tensors of a result as one, NaN as zero."""
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return torch.cat([torch.nan_to_num(leaf.double()).flatten() for leaf in leaves])


SWAPPABLE = [(n, s) for n, s in stages.pairs() if n != "sparse"]


@pytest.mark.parametrize(("name", "scheme"), SWAPPABLE)
def test_every_kind_of_stage(name: str, scheme: str) -> None:
    fast, other, wanted = pair(name, scheme)
    x = stages.inputs(name, 7, 4)
    if fast._executor.direct is None or not fast._executor.steps[0].native:
        with pytest.raises(rt.UnsupportedProblem, match="one native call"):
            fast.swap(other)
        return
    before = quiet(lambda: fast(x))
    report = fast.swap(other)
    assert fast.swap_pending and report.tensors == len(fast._state.entries)
    after = quiet(lambda: fast(x))
    assert not fast.swap_pending
    want = quiet(lambda: wanted(x))
    assert torch.equal(first_of(after), first_of(want))
    for key, value in wanted.state_dict().items():
        assert torch.equal(fast.state_dict()[key], value)
    assert "swapped" in fast.explain(measure=False)
    fast.rollback()
    assert torch.equal(first_of(quiet(lambda: fast(x))), first_of(before))


def test_from_a_file_and_from_a_model(tmp_path: Path) -> None:
    fast, other, wanted = pair("mlp", "float32")
    x = stages.inputs("mlp", 7, 4)
    save_file(other, tmp_path / "weights.safetensors")
    first = fast.swap(tmp_path / "weights.safetensors")
    assert torch.equal(fast(x), wanted(x))
    fast.rollback()
    assert fast.swap(wanted).digest == first.digest
    assert torch.equal(fast(x), wanted(x))


def test_bound_calls_go_on(tmp_path: Path) -> None:
    fast, other, wanted = pair("mlp", "w8a8 static")
    x, y = stages.inputs("mlp", 3, 2), torch.full((2, 4), float("nan"))
    step = fast.bind(x, out=y)
    fast.swap(other)
    step()
    assert torch.equal(y, wanted(x))
    fast.rollback()
    fast.swap(other)
    fast.load_state_dict(other)  # what waited is dropped
    step()
    assert torch.equal(y, wanted(x))
    with pytest.raises(rt.FormatError, match="without a swap"):
        fast.rollback()


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_streams_keep_their_past(scheme: str) -> None:
    def live(seed: int) -> rt.StreamModel:
        torch.manual_seed(seed)
        return rt.stream(nn.LSTM(3, 8, batch_first=True).eval(), torch.randn(2, 3), scheme)

    first, second = live(0), live(1)
    other = {k: v for k, v in second.state_dict().items() if k != "_extra_state"}
    for key, entry in first._state.entries.items():
        if entry.kind != "tensor":
            other[key] = first.state_dict()[key]
    steps = [torch.randn(2, 3) for _ in range(8)]
    for x in steps[:4]:
        first.step(x)
    wanted = copy.deepcopy(first)
    wanted.load_state_dict(other | {"_extra_state": first.state_dict()["_extra_state"]})
    first.swap(other)
    for x in steps[4:]:
        assert torch.equal(first.step(x), wanted.step(x))


def test_what_does_not_fit() -> None:
    fast, other, _ = pair("mlp", "w8a8 static")
    x = stages.inputs("mlp", 3, 2)
    want, state = fast(x), fast.state_dict()
    scale = next(k for k, e in fast._state.entries.items() if e.kind == "scale")
    weight = next(k for k, e in fast._state.entries.items() if e.kind == "tensor")
    bad: list[object] = [
        None,
        {},
        {k: v for k, v in other.items() if k != weight},
        other | {"more": torch.zeros(1)},
        other | {scale: other[scale] * 2},
        other | {weight: other[weight][:-1]},
        other | {weight: other[weight].double()},
        other | {"structure": stages.shared("mlp", "float32", 1).state_dict()["structure"]},
        stages.shared("mlp", "float32", 1),
        "no/such/file.safetensors",
        stages.original("mlp", 1),
    ]
    for source in bad:
        with pytest.raises(rt.FormatError, match="swap: got"):
            fast.swap(source)
        assert not fast.swap_pending
        assert torch.equal(fast(x), want)
    assert all(torch.equal(v, state[k]) for k, v in fast.state_dict().items())


@pytest.mark.parametrize("times", range(5))
def test_each_rollback_exchanges_the_two_sets_of_weights(times: int, tmp_path: Path) -> None:
    fast, other, _ = pair("mlp", "float32")
    loaded = rt.load(rt.save(fast, tmp_path / "one.rta"))
    x = stages.inputs("mlp", 3, 2)
    results = [fast(x)]
    fast.swap(other)
    results.append(fast(x))
    loaded.swap(rt.save(fast, tmp_path / "two.rta"))
    loaded(x)
    for done in range(times):
        for model in (fast, loaded):
            model.rollback()
            assert torch.equal(model(x), results[done % 2])
    assert not torch.equal(*results)
    for model in (fast, loaded):  # one that no call has met is taken back for good
        before = model(x)
        model.swap(other if model is fast else tmp_path / "two.rta")
        model.rollback()
        with pytest.raises(rt.FormatError, match="rollback"):
            model.rollback()
        assert torch.equal(model(x), before)


def test_from_another_thread_no_output_is_mixed() -> None:
    fast, other, wanted = pair("mlp", "float32")
    own = fast.state_dict()
    x, y = stages.inputs("mlp", 3, 1), torch.empty(1, 4)
    answers = {fast(x).numpy().tobytes(), wanted(x).numpy().tobytes()}
    step, stop, failures = fast.bind(x, out=y), threading.Event(), []

    def swaps() -> None:
        try:
            for i in range(60):
                fast.swap((other, own)[i % 2])
        except Exception as error:
            failures.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=swaps)
    thread.start()
    seen = set()
    while not stop.is_set():
        step()
        seen.add(y.numpy().tobytes())
    thread.join()
    assert not failures
    assert seen <= answers


def test_one_number_that_lies_with_a_stride() -> None:
    """Such a tensor counts as contiguous, and keeps its stride when it is copied."""
    model = nn.Linear(3, 1).eval()
    fast = rt.compile(model, (torch.zeros(1, 3),))
    state, own = fast.state_dict(), fast(torch.ones(1, 3))
    key = next(k for k in state if k.endswith("bias"))
    state[key] = torch.cat([state[key] + 1, torch.zeros(3)]).as_strided((1,), (2,))
    fast.swap(state)
    torch.testing.assert_close(fast(torch.ones(1, 3)), own + 1)
    fast.load_state_dict(state)
    torch.testing.assert_close(fast(torch.ones(1, 3)), own + 1)

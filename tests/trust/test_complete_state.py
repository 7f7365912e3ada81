"""A state dict holds everything: loaded into another model of the same architecture it gives the same bits, whatever the
scheme of that model was; and a state that does not fit changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Encoder(nn.Module):
    """A norm that gives float32 and int8: post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Shared(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.lin(torch.relu(self.lin(x)))))


class Last(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.memory, self.head = kind(6, 12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Index(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(x))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 4), nn.Softmax(-1)
    )


def tcn() -> nn.Module:
    return nn.Sequential(
        nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(6, 8, 3), nn.ReLU(),
        nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(8, 5, 3, dilation=2),
    )  # fmt: skip


def image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten()
    )


Data = Callable[[int], Tensor]
MODELS: dict[str, tuple[Callable[[], nn.Module], Data]] = {
    "mlp": (mlp, lambda n: torch.randn(n, 6) * torch.linspace(0.05, 4, 6)),
    "encoder": (Encoder, lambda n: torch.randn(n, 5, 16)),
    "attention": (Attending, lambda n: torch.randn(n, 5, 16)),
    "shared": (Shared, lambda n: torch.randn(n, 6)),
    "lstm": (lambda: Last(nn.LSTM), lambda n: torch.randn(n, 7, 6)),
    "gru": (lambda: Last(nn.GRU), lambda n: torch.randn(n, 7, 6)),
    "both directions": (lambda: nn.LSTM(6, 4, bidirectional=True, batch_first=True), lambda n: torch.randn(n, 7, 6)),
    "tcn": (tcn, lambda n: torch.randn(n, 6, 12)),
    "image": (image, lambda n: torch.randn(n, 1, 10, 10)),
    "embedding": (Index, lambda n: torch.randint(0, 11, (n, 4))),
}
SCHEMES: dict[str, Any] = {
    "float32": "float32", "bfloat16": "bfloat16", "w8a16": "w8a16", "w4a16": "w4a16", "float8": "float8",
    "w8a8": "w8a8", "w8a8-dynamic": rt.W8A8("dynamic"), "w4a8": "w4a8", "w4a8-dynamic": rt.W4A8(activation="dynamic"),
}  # fmt: skip


@cache
def once(name: str, scheme: str, seed: int) -> tuple[rt.CompiledModel, Tensor]:
    torch.manual_seed(seed)
    build, data = MODELS[name]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    fast = rt.compile(
        model, (data(2),), SCHEMES[scheme], calibration=[data(40) * (seed + 1) if name != "embedding" else data(40)]
    )
    return fast, data(5)


def compiled(name: str, scheme: str, seed: int) -> tuple[rt.CompiledModel, Tensor]:
    """A model of its own, and inputs. Exported once, and copied for each test."""
    fast, x = once(name, scheme, seed)
    return copy.deepcopy(fast), x


def results(fast: rt.CompiledModel, x: Tensor) -> list[Tensor]:
    return [t.clone() for t in torch.utils._pytree.tree_leaves(fast(x))]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(p, q) for p, q in zip(a, b))


PAIRS = [("mlp", scheme) for scheme in SCHEMES]
PAIRS += [(name, scheme) for name in MODELS if name != "mlp" for scheme in ("float32", "w8a8", "w8a8-dynamic")]
PAIRS += [(name, "w4a8") for name in ("lstm", "gru", "encoder", "tcn", "shared")]


@pytest.mark.parametrize(("name", "scheme"), PAIRS)
def test_a_loaded_state_gives_the_same_bits(name: str, scheme: str) -> None:
    first, x = compiled(name, scheme, 0)
    second, _ = compiled(name, scheme, 1)
    want = results(first, x)
    assert not same(results(second, x), want)
    second.load_state_dict(first.state_dict())
    assert same(results(second, x), want)
    assert same(results(copy.deepcopy(second), x), want)
    state, again = first.state_dict(), second.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[k], again[k]) for k in state if k != "structure")
    assert all(k.startswith(("params.", "constants.")) or k == "structure" for k in state)


@pytest.mark.parametrize("other", ["float32", "w8a8", "w8a8-dynamic", "w4a8"])
@pytest.mark.parametrize("name", ["mlp", "encoder", "lstm", "tcn", "shared"])
def test_a_state_of_another_scheme_is_taken(name: str, other: str) -> None:
    for scheme in ("w8a8", "w8a8-dynamic", "float32"):
        first, x = compiled(name, scheme, 0)
        second, _ = compiled(name, other, 1)
        out = [torch.empty_like(t) for t in results(second, x)]
        step = second.bind(x, out=out[0] if len(out) == 1 else tuple(out))
        second.load_state_dict(first.state_dict())
        step()  # bound before
        assert same(out, results(first, x)) and same(results(second, x), results(first, x))


@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "tcn"])
def test_a_stream_goes_on_from_its_state(kind: str, scheme: str) -> None:
    torch.manual_seed(3)
    if scheme == "w4a8" and kind == "tcn":
        pytest.skip("a convolution has no int4")
    build = {"lstm": lambda: Last(nn.LSTM), "gru": lambda: Last(nn.GRU), "tcn": tcn}[kind]
    shape = (4, 6, 20) if kind == "tcn" else (4, 20, 6)
    made = [
        rt.stream(
            build().eval(), torch.randn(2, 6), scheme, calibration=None if scheme == "float32" else torch.randn(shape)
        )
        for _ in range(2)
    ]
    for _ in range(5):
        made[0].step(torch.randn(2, 6))
    saved = made[0].state_dict()
    made[0].load_state_dict(saved)
    made[1].load_state_dict(saved)
    twin = copy.deepcopy(made[0])
    y = torch.empty_like(made[1].step(torch.randn(2, 6)))
    made[1].load_state_dict(saved)
    x = torch.randn(2, 6)
    step = made[1].bind(x, out=y)
    for _ in range(9):
        x.copy_(torch.randn(2, 6))
        step()
        assert torch.equal(made[0].step(x), y) and torch.equal(twin.step(x), y)
    fresh = rt.stream(
        build().eval(), torch.randn(2, 6), scheme, calibration=None if scheme == "float32" else torch.randn(shape)
    )
    fresh.load_state_dict({k: v for k, v in saved.items() if k != "_extra_state"}, strict=False)  # starts anew
    made[1].reset()
    step()  # the bound call sees the reset
    assert torch.equal(fresh.step(x), y)


def test_a_refused_state_changes_nothing() -> None:
    fast, x = compiled("mlp", "w8a8", 0)
    other, _ = compiled("mlp", "w8a8", 1)
    want, state = results(fast, x), other.state_dict()
    bad: dict[str, dict[str, Any]] = {
        "missing": {k: v for k, v in state.items() if k != "params.4.bias"},
        "unexpected": {**state, "params.9.bias": torch.zeros(1)},
        "last is wrong": {**state, "params.4.bias": torch.zeros(5)},
        "meta": {**state, "params.4.bias": state["params.4.bias"].to("meta")},
        "no tensor": {**state, "params.4.bias": 3},
        "structure": {**state, "structure": torch.zeros(8, dtype=torch.uint8)},
        "no structure": {**state, "structure": "text"},
        "scale too small": {**state, "params.0.input_scale": torch.tensor(1e-300, dtype=torch.float64)},
    }
    for given in bad.values():
        with pytest.raises(rt.FormatError):
            fast.load_state_dict(given)
        assert same(results(fast, x), want)
        holder = nn.ModuleDict({"fast": fast})
        with pytest.raises(RuntimeError, match="fast"):
            holder.load_state_dict({f"fast.{k}": v for k, v in given.items()})
        assert same(results(fast, x), want)
    holder.load_state_dict(
        {f"fast.{k}": v for k, v in state.items()}
    )  # a whole state reaches the plan through a parent
    assert same(results(fast, x), results(other, x))
    with pytest.raises(rt.FormatError, match="dict of tensors"):
        fast.load_state_dict([1])


def test_a_negated_tensor_keeps_its_sign() -> None:
    fast, x = compiled("mlp", "float32", 0)
    want = results(fast, x)
    state = {k: (-v)._neg_view() if v.is_floating_point() else v for k, v in fast.state_dict().items()}
    for assign in (False, True):
        other, _ = compiled("mlp", "float32", 1)
        other.load_state_dict(state, assign=assign)
        assert same(results(other, x), want)


def test_a_column_range_model_loads_into_another() -> None:
    def make(seed: int, spread: float) -> tuple[rt.CompiledModel, Tensor]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
        ranges = torch.tensor([spread, 0.02, 0.02, 0.02, 0.02, 0.02])
        data = [torch.randn(64, 6) * ranges for _ in range(3)]
        with torch.no_grad():
            model[0].weight[:, 1:].mul_(50)
        return rt.compile(model, (data[0][:1],), "w8a8", calibration=data), data[0][:9]

    (wide, x), (even, _) = make(0, 10.0), make(1, 0.02)
    assert "params.0.input_column_scale" in wide.state_dict()
    assert "params.0.input_column_scale" not in even.state_dict()
    for first, second in ((wide, even), (even, wide)):
        target = copy.deepcopy(second)
        target.load_state_dict(first.state_dict())
        assert same(results(target, x), results(first, x))


def test_a_state_of_another_model_is_named() -> None:
    fast, _ = compiled("mlp", "w8a8", 0)
    torch.manual_seed(0)
    other = rt.compile(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).eval(), (torch.randn(1, 6),))
    with pytest.raises(rt.FormatError, match="same architecture"):
        fast.load_state_dict(other.state_dict())


def test_the_past_of_a_stream_is_checked() -> None:
    live = rt.stream(tcn().eval(), torch.randn(2, 6))
    for _ in range(3):
        live.step(torch.randn(2, 6))
    state = live.state_dict()
    for value in (-3, 2**63 - 1, -(2**63)):
        past = state["_extra_state"].clone()
        past[-8:] = torch.frombuffer(bytearray(value.to_bytes(8, "little", signed=True)), dtype=torch.uint8)
        with pytest.raises(rt.FormatError, match="_extra_state"):
            live.load_state_dict({**state, "_extra_state": past})
    twin = copy.deepcopy(live)
    x = torch.randn(2, 6)
    assert torch.equal(live.step(x), twin.step(x))

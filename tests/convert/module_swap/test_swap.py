"""quantize_ and restore_: what is swapped, what is kept and why, and a model that is never left half done."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import rtaccel as rt
from rtaccel.nn import QuantLinear
from tests.support.networks.swapped_models import MyLinear, actions, make, snapshot, unchanged, without_timing


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> list[tuple[int, ...]]:
    return without_timing(monkeypatch)


# -- swapping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "calibrated", "static"),
    [
        ("w8a8", True, True),
        ("w8a8", False, False),
        (rt.W8A8(), True, True),
        (rt.W8A8("dynamic"), True, False),
        (rt.W8A8("dynamic"), False, False),
        (rt.W8A8("static"), True, True),
    ],
    ids=str,
)
def test_swaps_every_layer(scheme, calibrated: bool, static: bool) -> None:
    model, x = make(), torch.randn(64, 24)
    want = model(x)
    report = rt.quantize_(model, scheme, calibration=[x] if calibrated else None)
    assert actions(report) == {"0": "swapped", "2.0": "swapped", "3": "swapped"}
    assert all(e.activation == ("static" if static else "dynamic") for e in report)
    assert all(type(model.get_submodule(e.fqn)) is QuantLinear for e in report)
    assert not any(p.is_floating_point() for n, p in model.state_dict().items() if n.endswith(".weight"))
    error = (model(x) - want).square().mean().sqrt() / want.square().mean().sqrt()
    assert 0 < error < 0.05
    assert all(0 < e.error < 0.05 for e in report)


def test_layers_are_those_of_from_float() -> None:
    model, x = make(), torch.randn(64, 24)
    plain = copy.deepcopy(model)
    rt.quantize_(model, "w8a8", calibration=[x[:32], x[32:]])
    alone = QuantLinear.from_float(plain[0], "w8a8", [x[:32], x[32:]])
    assert all(torch.equal(a, b) for a, b in zip(model[0].state_dict().values(), alone.state_dict().values()))
    hidden = plain[1](plain[0](x))  # calibration runs the float model, not one that is already swapped
    alone = QuantLinear.from_float(plain[2][0], "w8a8", [hidden[:32], hidden[32:]])
    assert torch.equal(model[2][0].input_scale, alone.input_scale)


def test_filter_and_patterns() -> None:
    seen = []
    report = rt.quantize_(make(), "w8a8", lambda module, name: seen.append((type(module), name)) or name != "3")
    assert seen == [(nn.Linear, "0"), (nn.Linear, "2.0"), (nn.Linear, "3")]
    assert actions(report) == {"0": "swapped", "2.0": "swapped", "3": "kept"}
    assert "filter_fn" in report.entries[2].reason
    report = rt.quantize_(
        make(), {"2.*": rt.W8A8("dynamic"), "3": rt.Float32(), "*": "w8a8"}, None, [torch.randn(8, 24)]
    )
    assert [(e.action, e.activation) for e in report] == [("swapped", "static"), ("swapped", "dynamic"), ("kept", None)]
    assert actions(rt.quantize_(make(), {"0": "w8a8"})) == {"0": "swapped", "2.0": "kept", "3": "kept"}
    assert rt.quantize_(make(), "float32").swapped == 0


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(6, 4), nn.Linear(3, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.a(input=x) * scale + self.b(y)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "generator"])
def test_calibration_batches(kind: str, quick) -> None:
    x, y = torch.randn(10, 6), torch.randn(10, 3)
    batches = {
        "tuple": [(x, y)],
        "list": [[x, y]],
        "dict": [{"x": x, "y": y, "scale": 2.0}],
        "generator": ((x[i : i + 5], y[i : i + 5]) for i in (0, 5)),
    }
    model = TwoInputs().eval()
    report = rt.quantize_(model, "w8a8", calibration=batches[kind])
    assert actions(report) == {"a": "swapped", "b": "swapped", "unused": "kept"}
    assert "no calibration batch reached it" in report.entries[2].reason
    rows = 5 if kind == "generator" else 10
    assert quick == [(rows, 6), (rows, 3)]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_one_tensor_is_one_batch_and_rows_can_be_chosen(quick) -> None:
    rt.quantize_(make(), "w8a8", calibration=torch.randn(2, 3, 24))
    rt.quantize_(make(), "w8a8", calibration=torch.randn(9, 24), rows=1)
    report = rt.quantize_(make(), "w8a8")
    assert quick == [(2, 3, 24), (2, 3, 40), (2, 3, 16)] + [(1, 24), (1, 40), (1, 16)] * 2
    assert [e.rows for e in report] == [1, 1, 1]


# -- what is kept ------------------------------------------------------------------------------------------------------


def hooked(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda *args: None)
    return layer


def with_forward(layer: nn.Linear) -> nn.Linear:
    layer.forward = lambda x: x
    return layer


KEPT = {
    "MyLinear": lambda: MyLinear(4, 4),
    "hooks": lambda: hooked(nn.Linear(4, 4)),
    "forward of its own": lambda: with_forward(nn.Linear(4, 4)),
    "parametrizations": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "float16": lambda: nn.Linear(4, 4).half(),
    "float64": lambda: nn.Linear(4, 4).double(),
    "meta": lambda: nn.Linear(4, 4, device="meta"),
    "training mode": lambda: nn.Linear(4, 4).train(),
    "K = 65537": lambda: nn.Linear(65537, 1),
    "at least one feature": lambda: nn.Linear(4, 0),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("reason", KEPT)
def test_kept_with_the_reason(reason: str) -> None:
    layer = KEPT[reason]()
    training = layer.training and reason == "training mode"
    model = nn.ModuleDict({"odd": layer, "plain": nn.Linear(4, 4)}).eval()
    layer.train(training)
    report = rt.quantize_(model, "w8a8")
    assert actions(report) == {"odd": "kept", "plain": "swapped"}
    assert reason in report.entries[0].reason
    assert model["odd"] is layer


def test_tied_weights_are_kept() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body, self.head = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10)
            self.head.weight = self.embedding.weight
            self.view = nn.Linear(4, 5)
            self.view.weight = nn.Parameter(self.embedding.weight.data[:5])

        def forward(self, index: Tensor) -> Tensor:
            return self.head(self.body(self.embedding(index))) + self.view(self.embedding(index)).sum()

    model = Language().eval()
    report = rt.quantize_(model, "w8a8", calibration=[torch.arange(10)])
    assert actions(report) == {"body": "swapped", "head": "kept", "view": "kept"}
    assert "shares its weight" in report.entries[1].reason
    assert model.head.weight is model.embedding.weight


def test_layers_whose_weight_the_owner_reads_are_kept() -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    model = nn.Sequential(encoder, nn.Linear(8, 3)).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        want = model(x)
        report = rt.quantize_(model, "w8a8", calibration=[x])
        assert torch.allclose(model(x), want, atol=0.1)
    assert report.swapped == 1
    assert all("read by" in e.reason or "NonDynamically" in e.reason for e in report if e.action == "kept")
    assert "TransformerEncoderLayer" in next(e.reason for e in report if e.fqn.endswith("linear1"))


def test_a_shared_layer_is_swapped_once() -> None:
    layer = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.ReLU()), "c": nn.Linear(8, 8)}).eval()
    report = rt.quantize_(model, "w8a8")
    assert [(e.fqn, e.also, e.action) for e in report] == [("a", ("b.0",), "swapped"), ("c", (), "swapped")]
    assert model["a"] is model["b"][0]
    assert type(model["a"]) is QuantLinear
    assert rt.restore_(model) == 2
    assert model["a"] is model["b"][0] is layer
    report = rt.quantize_(model, "w8a8", lambda module, name: name != "a")
    assert actions(report)["a"] == "kept"
    report = rt.quantize_(model, {"a": "float32", "*": "w8a8"})
    assert "different schemes" in report.entries[0].reason


# -- the gate ----------------------------------------------------------------------------------------------------------


# -- restoring ---------------------------------------------------------------------------------------------------------


def test_restore() -> None:
    model, x = make(), torch.randn(3, 24)
    before, want = snapshot(model), model(x)
    rt.quantize_(model, "w8a8", lambda module, name: name != "3", [x])
    assert rt.restore_(model) == 2
    assert unchanged(model, before)
    assert torch.equal(model(x), want)
    assert rt.restore_(model) == 0


def test_restore_follows_the_model() -> None:
    model = make()
    rt.quantize_(model, "w8a8")
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    x = torch.randn(3, 24)
    assert torch.equal(copied(x), model(x))
    assert torch.equal(pickled(x), model(x))
    model.double().train()
    for restored in (model, copied, pickled):
        assert rt.restore_(restored) == 3
    assert model[0].weight.dtype == torch.float64
    assert model[0].training
    assert torch.equal(copied(x), make()(x))
    assert torch.equal(pickled(x), make()(x))
    assert copied[0] is not model[0]


def test_no_float_weights_in_the_state_dict_and_none_kept_on_demand() -> None:
    model = make()
    report = rt.quantize_(model, "w8a8", lambda module, name: name == "3")
    assert report.swapped == 1
    rt.quantize_(model, "w8a8", keep_original=False)
    assert list(model.parameters()) == []
    assert set(model.state_dict()) == {
        f"{n}.{t}" for n in ("0", "2.0", "3") for t in ("qweight", "weight_scale", "bias", "_extra_state")
    }
    before = snapshot(model)
    with pytest.raises(rt.UnsupportedProblem, match=r"\b0\b.*keep_original") as caught:
        rt.restore_(model)
    assert caught.value.next_step
    assert unchanged(model, before)


def test_layers_put_by_hand_are_left_alone() -> None:
    model = nn.Sequential(QuantLinear(4, 4), nn.Linear(4, 4)).eval()
    by_hand = model[0]
    report = rt.quantize_(model, "w8a8")
    assert actions(report) == {"1": "swapped"}
    assert rt.restore_(model) == 1
    assert model[0] is by_hand
    assert rt.restore_(by_hand) == 0


def test_state_dict_round_trip_of_a_swapped_model() -> None:
    first, second, x = make(1), make(2), torch.randn(5, 24)
    for model in (first, second):
        rt.quantize_(model, "w8a8", calibration=[x])
        model(x)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_parametrized_layer_still_trains_after_a_swap_around_it() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)).eval()
    rt.quantize_(model, "w8a8")
    assert parametrize.is_parametrized(model[0])
    assert len(list(model.parameters())) == 3


# -- the report --------------------------------------------------------------------------------------------------------


def test_report() -> None:
    report = rt.quantize_(make(), {"0": "w8a8", "3": "w8a8"}, calibration=[torch.randn(8, 24)])
    assert (report.swapped, report.kept, len(report)) == (2, 1, 3)
    first, middle, _ = report
    assert first.shape == (40, 24)
    assert first.bytes_before == 4 * (40 * 24 + 40)
    assert first.bytes_after == 40 * 24 + 4 * 40 + 4 * 40 + 4 + 4
    assert (middle.bytes_before, middle.bytes_after, middle.error) == (4 * (16 * 40 + 16), None, None)
    total = first.bytes_after + middle.bytes_before + report.entries[2].bytes_after
    assert (report.bytes_before, report.bytes_after) == (sum(e.bytes_before for e in report), total)
    text = str(report).splitlines()
    assert len(text) == 5
    assert text[-1] == f"2 swapped, 1 kept; {report.bytes_before} -> {report.bytes_after} bytes"
    column = text[0].index("action")
    assert [line[column : column + 7].strip() for line in text[1:4]] == ["swapped", "kept", "swapped"]
    loaded = json.loads(report.to_json())
    assert loaded["swapped"] == 2
    assert [e["fqn"] for e in loaded["entries"]] == ["0", "2.0", "3"]
    assert loaded["entries"][0]["us_after"] == 1.0
    with pytest.raises(AttributeError):
        report.entries = ()

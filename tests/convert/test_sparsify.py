"""`sparsify_`: what is pruned, what it costs, what is left alone; `restore_`; training on with the zeros in place."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.pruning import sparsity_allocation
from rtaccel.convert.pruning.weight_matrices import fed, matrices_of
from rtaccel.convert.weights import prune
from rtaccel.formats import masks

METHODS = ("magnitude", "wanda", "second", "refit", "sparsegpt", "least_squares")
PATTERNS = (rt.Unstructured(0.7), rt.BlockSparse((8, 8), 0.6), rt.SemiStructured())


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 6)).eval()


MIXING = torch.randn(12, 48, generator=torch.Generator().manual_seed(5))


def inputs(rows: int) -> Tensor:
    """Columns that depend on one another, as real ones do."""
    return torch.randn(rows, 12) @ MIXING + 0.3 * torch.randn(rows, 48)


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_layers_keep_the_pattern_and_come_back(method: str, pattern: rt.Unstructured) -> None:
    model, x = network(), inputs(4)
    before, want = state(model), model(x).detach()
    report = rt.sparsify_(model, pattern, calibration=[inputs(128)], method=method)
    assert report.changed == 3 and all(isinstance(m, rt.nn.SparseLinear) for m in model[::2])
    for entry, layer in zip(report, model[::2]):
        masks.check("test", layer.to_dense() != 0, pattern)
        assert entry.zeros == pytest.approx(layer.sparsity_reached)
        assert entry.zeros >= (pattern.sparsity or 0.5) - 1 / 8
        assert 0 < entry.error < 1.2 and entry.bytes_after is not None and entry.us_after is not None
    assert not torch.equal(model(x), want)
    assert json.loads(report.to_json())["entries"][0]["fqn"] == "0" and "0  " in str(report)
    assert rt.restore_(model) == 3
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(x), want)


def test_methods_that_know_the_data_lose_less() -> None:
    calibration, fresh = inputs(1024), inputs(256)
    lost = {}
    for method in METHODS:
        torch.manual_seed(3)
        model = network()
        want = model(fresh).detach()
        rt.sparsify_(model, rt.Unstructured(0.7), calibration=[calibration], method=method, swap=False)
        lost[method] = float((model(fresh).detach() - want).norm())
    assert lost["refit"] < lost["second"] < lost["wanda"] < lost["magnitude"]
    assert (lost["sparsegpt"], lost["least_squares"]) == (lost["second"], lost["refit"])


def test_refit_is_the_optimum_of_its_mask() -> None:
    """Against torch's own least squares, row by row; damping is so many rows more that ask for the weight as it was."""
    x, weight = inputs(400).double(), torch.randn(7, 48)
    statistics = prune.InputStatistics.of_dense(x.T @ x / 400, x.mean(0), 400)
    fitted = prune.refit(weight, rt.Unstructured(0.75), statistics)
    damping = (prune.DAMPING * statistics.second.diagonal().mean()).sqrt() * torch.eye(48, dtype=torch.float64)
    rows = torch.cat([x / 20, damping])
    for row, kept in zip(range(7), fitted != 0):
        best = torch.linalg.lstsq(rows[:, kept], (rows @ weight[row].double())[:, None]).solution[:, 0]
        torch.testing.assert_close(fitted[row][kept], best.float(), rtol=1e-4, atol=1e-5)
    error = (x @ (weight - fitted).double().T).norm() / (x @ weight.double().T).norm()
    assert prune.output_error(weight, fitted, None, statistics) == pytest.approx(float(error), rel=1e-6)


def test_the_bias_takes_up_what_is_lost_on_average() -> None:
    model, data = nn.Sequential(nn.Linear(48, 10)).eval(), inputs(256) + 2
    want = model(data).detach().mean(0)
    rt.sparsify_(model, rt.Unstructured(0.8), calibration=[data], method="magnitude", swap=False)
    torch.testing.assert_close(model(data).detach().mean(0), want, rtol=1e-4, atol=1e-4)


def test_allocation_under_one_target() -> None:
    shares = sparsity_allocation.allocate_sparsity(
        {"easy": 1000, "hard": 1000}, {"easy": lambda s: 0.01 * s, "hard": lambda s: 10 * s}, 0.45
    )
    assert shares["easy"] == pytest.approx(0.9) and shares["hard"] == 0
    model = network()
    with torch.no_grad():
        model[2].weight[:, 5:] *= 1e-4
    report = rt.sparsify_(model, rt.Unstructured(0.6), allocation="global", calibration=[inputs(128)], method="wanda")
    zeros = {e.fqn: e.zeros for e in report}
    assert report.zeros == pytest.approx(0.6, abs=0.02)
    assert zeros["2"] > 0.85 and zeros["2"] > zeros["0"]


def test_zeros_that_are_there_and_names() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight *= torch.rand(64, 48) < 0.2
    before = state(model)
    report = rt.sparsify_(model, {"0": "unstructured", "4": None})
    assert [e.action for e in report] == ["swapped", "kept", "kept"]
    assert torch.equal(model[0].to_dense(), before["0.weight"])
    assert "no pattern" in report.entries[1].reason
    filtered = rt.sparsify_(network(), "2:4", filter_fn=lambda module, name: name == "2")
    assert [e.action for e in filtered] == ["kept", "swapped", "kept"]


@pytest.mark.parametrize("scheme", ["w8a8", rt.W8A8("dynamic")], ids=str)
def test_swapped_as_int8(scheme: str | rt.W8A8) -> None:
    model, x = network(), inputs(64)
    want = model(x).detach()
    rt.sparsify_(model, rt.Unstructured(0.3), calibration=[inputs(256)], scheme=scheme)
    assert model[0].values.dtype == torch.int8
    assert (model(x) - want).norm() < 0.3 * want.norm()


ERRORS = {
    "too few rows": {"calibration": [torch.randn(4, 48)], "method": "second"},
    "no data": {"method": "wanda"},
    "a method": {"method": "luck"},
    "an allocation": {"allocation": "some"},
    "a static scheme": {"scheme": rt.W8A8("static")},
    "no batch": {"calibration": []},
    "a NaN": {"calibration": [torch.full((2, 48), float("nan"))]},
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_leave_the_model_as_it_was(what: str) -> None:
    model = network()
    before, layers = state(model), list(model)
    with pytest.raises(rt.FormatError):
        rt.sparsify_(model, rt.Unstructured(0.5), **ERRORS[what])
    assert list(model) == layers
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        model[4].weight[0, 0] = float("inf")
    with pytest.raises(rt.FormatError, match=r"4.weight\[0, 0\]"):
        rt.sparsify_(model, rt.Unstructured(0.5))
    assert list(model) == layers


def test_models_that_cannot_be_changed() -> None:
    for model in (nn.Linear(4, 4).eval(), network().train(), "x"):
        with pytest.raises(rt.UnsupportedProblem):
            rt.sparsify_(model, rt.Unstructured(0.5))
    with pytest.raises(rt.UnsupportedProblem, match="w4a16"):
        rt.sparsify_(network(), rt.Unstructured(0.5), scheme="w4a16")


def test_training_on_keeps_the_zeros() -> None:
    model, x = network(), inputs(256)
    target = model(x).detach()
    before = state(model)
    rt.sparsify_(model, rt.Unstructured(0.7), swap=False)
    zeros = {n: t == 0 for n, t in model.state_dict().items() if n.endswith("weight")}

    def loss() -> Tensor:
        return (model(x) - target).square().mean()

    start = float(loss().detach())
    with rt.keep_zeros(model) as kept:
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert float(loss().detach()) < 0.5 * start
    assert kept.keys() == zeros.keys()
    assert all(torch.equal(model.state_dict()[n] == 0, z) for n, z in zeros.items())
    assert rt.restore_(model) == 3
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(rt.UnsupportedProblem), rt.keep_zeros(network()):
        pass


class Mixed(nn.Module):
    """Every kind of layer that is pruned where it is, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.point = nn.Conv2d(2, 16, 3, padding="same"), nn.Conv2d(16, 24, 1, stride=2)
        self.groups, self.line = nn.Conv2d(24, 24, 3, groups=24), nn.Conv1d(24, 32, 3, padding=1, dilation=2)
        self.block = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.groups(torch.relu(self.point(torch.relu(self.first(x))))))
        return self.block(self.line(x.flatten(2)).transpose(1, 2))


@pytest.mark.parametrize("method", METHODS)
def test_convolutions_and_attention(method: str) -> None:
    model, x = Mixed().eval(), torch.randn(6, 2, 12, 12)
    before, want = state(model), model(x).detach()
    report = rt.sparsify_(model, rt.Unstructured(0.5), calibration=[x], method=method)
    entries = {e.fqn: e for e in report}
    attention = [f"block.self_attn.{part}" for part in ("query", "key", "value", "out_proj")]
    assert [*entries] == ["first", "point", "groups", "line", *attention, "block.linear1", "block.linear2"]
    assert "in groups" in entries.pop("groups").reason
    assert all(e.action == "pruned" and e.zeros == pytest.approx(0.5, abs=0.01) for e in entries.values())
    assert "one tap" in entries["first"].reason and "rt.compile" in entries["point"].reason
    assert 0 < float((model(x) - want).detach().norm() / want.norm()) < 0.8
    if method == "magnitude":
        fast = rt.compile(model, (x,))
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-4)
        assert "first is computed dense: there are no sparse kernels for this conv" in fast.explain(measure=False)
    assert rt.restore_(model) == 6 and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_what_matrices_are_fed_is_what_they_multiply() -> None:
    """Each layer's output from the rows of `fed` and the matrices of `matrices_of`."""
    conv, x = nn.Conv1d(3, 5, 4, stride=2, padding=3, dilation=2), torch.randn(2, 3, 17)
    (rows,) = fed(conv, (x,), {})
    (matrix,) = matrices_of(conv)
    y = rows @ matrix.weight(conv).T + matrix.own_bias(conv)
    torch.testing.assert_close(y.view(2, -1, 5).transpose(1, 2), conv(x).detach())
    attention, q, k = nn.MultiheadAttention(8, 2), torch.randn(3, 2, 8), torch.randn(5, 2, 8)
    found = fed(attention, (q, k, k), {})
    last = matrices_of(attention)[3]
    y = found[3] @ last.weight(attention).T + last.own_bias(attention)
    torch.testing.assert_close(y.view(3, 2, 8), attention(q, k, k)[0].detach())
    assert torch.equal(found[0], q.view(-1, 8)) and torch.equal(found[1], k.view(-1, 8))
    lstm = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)
    x, hx = torch.randn(3, 5, 6), (torch.randn(4, 3, 4), torch.randn(4, 3, 4))
    found = fed(lstm, (x, hx), {})
    y = lstm(x, hx)[0].transpose(0, 1).detach()  # of the second layer
    forward, backward = found[5].view(5, 3, 4), found[7].view(5, 3, 4)
    torch.testing.assert_close(forward, torch.cat([hx[0][2:3], y[:-1, :, :4]]))
    torch.testing.assert_close(backward, torch.cat([y[1:, :, 4:], hx[0][3:4]]))
    with pytest.raises(rt.UnsupportedProblem, match="PackedSequence"):
        fed(lstm, (nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]), batch_first=True),), {})


def test_layers_whose_weight_is_computed_are_kept_and_named() -> None:
    """Every kind of layer that is left alone, beside one that is not."""
    norms = nn.utils.parametrizations
    model = nn.Sequential(
        norms.weight_norm(nn.Linear(16, 16)), norms.spectral_norm(nn.Linear(16, 16)), norms.orthogonal(nn.Linear(16, 16)),
        nn.Linear(16, 8),
    ).eval()  # fmt: skip
    x = torch.randn(4, 16)
    front = model[:3](x)
    report = rt.sparsify_(model, rt.Unstructured(0.5))
    assert [e.action for e in report.entries] == ["kept", "kept", "kept", "swapped"]
    assert all("parametrizations" in e.reason and e.shape == (16, 16) for e in report.entries[:3])
    assert torch.equal(model[:3](x), front)

"""rt.compile gives the model's results: every layer it takes, every shape of graph, and what it leaves to torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rtaccel as rt
from tests.support.networks.call import Call

EPS = torch.finfo(torch.float32).eps


def randomise(model: nn.Module) -> nn.Module:
    """BatchNorm statistics away from their defaults, where folding would do nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def close(got, want, atol: float = 2e-5) -> None:
    torch.testing.assert_close(got, want, rtol=2e-5, atol=atol)


def kernels(fast) -> set[str]:
    return {line.kernel for line in fast.explain_lines(measure=False)}


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.07), nn.ELU(), nn.ELU(0.4), nn.GELU(), nn.GELU("tanh"), nn.SiLU(),
    nn.Tanh(), nn.Sigmoid(), nn.Softmax(-1), nn.Softmax(dim=1), nn.Identity(), nn.Dropout(0.5), nn.Flatten(),
    nn.BatchNorm1d(29),
]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_each_layer_between_linears_is_one_native_call(layer: nn.Module) -> None:
    model = randomise(nn.Sequential(nn.Linear(19, 29), layer, nn.Linear(29, 7)))
    fast = rt.compile(model, (torch.randn(3, 19),))
    assert "torch" not in kernels(fast)
    for rows in (1, 3, 40, 0):
        x = torch.randn(rows, 19)
        close(fast(x), model(x).detach())


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_each_layer_alone(layer: nn.Module) -> None:
    model = randomise(nn.Sequential(layer))
    x = torch.randn(4, 29)
    close(rt.compile(model, (x,))(x), model(x.clone()).detach())


@pytest.mark.parametrize("scheme", ["w8a8", rt.W8A8("dynamic")], ids=str)
@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_int8_is_near_the_float_model(layer: nn.Module, scheme) -> None:
    model = randomise(nn.Sequential(nn.Linear(19, 29), layer, nn.Linear(29, 7)))
    calibration = [torch.randn(256, 19)]
    fast = rt.compile(model, (torch.randn(1, 19),), scheme, calibration=calibration)
    x = torch.randn(64, 19)
    want = model(x).detach()
    error = (fast(x) - want).square().mean().sqrt() / want.std()
    assert error < 0.05, error


def test_bn_folds_into_the_linear_before_and_behind() -> None:
    model = randomise(
        nn.Sequential(
            nn.BatchNorm1d(8), nn.Linear(8, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.BatchNorm1d(9), nn.Linear(9, 4)
        )
    )
    fast = rt.compile(model, (torch.randn(2, 8),))
    assert [line.what.split("(")[0] for line in fast.explain_lines(measure=False)] == ["linear", "linear"]
    x = torch.randn(5, 8)
    close(fast(x), model(x).detach())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x, skip):
        h = F.relu(self.a(x) + skip)
        h = h + self.b(h)
        return {"logits": self.head(h), "hidden": h}, h.mean()


def test_residuals_branches_several_inputs_and_nested_outputs() -> None:
    model = Residual().eval()
    x, skip = torch.randn(6, 16), torch.randn(6, 16)
    for scheme in ("float32", "w8a8"):
        fast = rt.compile(model, (x[:2], skip[:2]), scheme, calibration=[(torch.randn(99, 16), torch.randn(99, 16))])
        got, want = fast(x, skip), model(x, skip)
        assert got[0].keys() == want[0].keys()
        tolerance = 2e-5 if scheme == "float32" else 0.1
        close(got[0]["logits"], want[0]["logits"].detach(), tolerance)
        close(got[0]["hidden"], want[0]["hidden"].detach(), tolerance)
        close(got[1], want[1].detach(), tolerance)
    assert "torch" in kernels(fast)  # the mean
    assert "joins samples" in fast.explain()


class TwoIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(7, 8)

    def forward(self, x, z):
        h = torch.tanh(self.a(x) + self.b(z))
        return h, torch.softmax(h, -1)


def test_two_inputs_two_outputs_in_one_call() -> None:
    model = TwoIn().eval()
    x, z = torch.randn(3, 5), torch.randn(3, 7)
    fast = rt.compile(model, (x, z))
    assert "one call" in fast.explain(measure=False)
    h, p = fast(x, z)
    close(h, model(x, z)[0].detach())
    close(p, model(x, z)[1].detach())
    out = (torch.empty(3, 8), torch.empty(3, 8))
    assert fast.run(x, z, out=out) is out
    assert torch.equal(out[0], h) and torch.equal(out[1], p)
    with pytest.raises(rt.ShapeError, match="batches"):
        fast(x, z[:2])


def test_unknown_layers_stay_torch_and_are_right() -> None:
    airy = Call(torch.special.airy_ai)
    model = nn.Sequential(
        nn.Linear(8, 12), nn.GroupNorm(3, 12), nn.Linear(12, 6), nn.ReLU(), airy, nn.Linear(6, 2)
    ).eval()
    fast = rt.compile(model, (torch.randn(1, 8),))
    text = fast.explain(measure=False)
    assert "group_norm" not in text and "airy_ai" in text and "stays an ordinary torch call" in text
    for rows in (1, 2, 9):
        x = torch.randn(rows, 8)
        close(fast(x), model(x).detach())
    out = torch.empty(9, 2)
    fast.run(x, out=out)
    close(out, model(x).detach())
    with pytest.raises(rt.UnsupportedProblem, match="airy_ai"):
        fast.seal()


def test_higher_ranks_and_flatten() -> None:
    tokens = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3)).eval()
    x = torch.randn(4, 5, 6)
    fast = rt.compile(tokens, (x,))
    close(fast(x), tokens(x).detach())
    image = nn.Sequential(nn.Flatten(), nn.Linear(24, 5)).eval()
    x = torch.randn(3, 2, 4, 3)
    fast = rt.compile(image, (x,))
    assert "one call" in fast.explain(measure=False)
    close(fast(x), image(x).detach())
    x = torch.randn(7, 2, 4, 3)
    close(fast(x), image(x).detach())
    vector = nn.Linear(6, 4).eval()
    x = torch.randn(6)
    close(rt.compile(vector, (x,))(x), vector(x).detach())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5))
        self.bias = nn.Parameter(torch.randn(5))
        self.register_buffer("mean", torch.randn(8))

    def forward(self, x):
        h = (x - self.mean) * 0.5 + 1.0
        h = h @ self.weight + self.bias
        return F.silu(h).view(h.shape[0], -1)


def test_functional_models() -> None:
    model = Functional().eval()
    x = torch.randn(4, 8)
    close(rt.compile(model, (x,))(x), model(x).detach())


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 64)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else -self.a(x)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.a(x) * self.calls


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_models_that_cannot_be_captured_run_as_they_are(scheme: str) -> None:
    model = DataDependent().eval()
    x = torch.rand(3, 64)
    fast = rt.compile(model, (x,), scheme, calibration=[x, -x])
    assert "not captured" in fast.explain()
    for data in (x, -x):
        close(fast(data), model(data).detach(), 2e-5 if scheme == "float32" else 0.1)
    out = torch.empty(3, 64)
    fast.run(x, out=out)
    assert torch.equal(out, fast(x))
    assert isinstance(model.a, nn.Linear)  # the caller's model is not touched
    counting = Counting().eval()
    fast = rt.compile(counting, (x[:, :8],))
    close(fast(x[:, :8]), counting(x[:, :8]).detach())
    close(fast(x[:, :8]), counting(x[:, :8]).detach())


def test_explain_measures_and_names_reasons() -> None:
    fast = rt.compile(nn.Linear(16, 16).eval(), (torch.randn(1, 16),))
    lines = fast.explain_lines()
    assert all(line.us is not None and 0 < line.us < 1e5 for line in lines)
    text = fast.explain(verbose=True)
    assert "  not cpu_" not in fast.explain()
    assert "float32[1, 16]" in text and "  not cpu_" in text
    assert "packed" in text


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_torch_defaults_do_not_leak_in(scheme: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(4, 8)
    plain = rt.compile(model, (x,), scheme, calibration=[x])
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            odd = rt.compile(model, (x,), scheme, calibration=[x])
            again = odd(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again, plain(x))
    assert torch.equal(odd(x), plain(x))


def test_what_the_core_does_not_take_is_named() -> None:
    with pytest.raises(rt.UnsupportedProblem, match="8 dimensions"):
        rt.compile(nn.Linear(4, 4).eval(), (torch.randn(1, 1, 1, 1, 1, 1, 1, 2, 4),))


def test_arguments_by_name() -> None:
    model = TwoIn().eval()
    x, z = torch.randn(3, 5), torch.randn(3, 7)
    fast = rt.compile(model, (x, z))
    want = fast(x, z)
    for got in (fast(x=x, z=z), fast(z=z, x=x), fast(x, z=z)):
        assert all(torch.equal(a, b) for a, b in zip(got, want))
    for wrong in ({"x": x}, {"x": x, "y": z}, {"x": x, "z": z, "w": z}):
        with pytest.raises(rt.ShapeError, match="named x, z"):
            fast(**wrong)
    with pytest.raises(rt.ShapeError, match="named x, z"):
        fast(x, z, z=z)


class Views(nn.Module):
    """The input under several names: joined, copied, renamed, read by torch and by native stages, and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        joined = x.flatten(1)
        copied = joined.clone()
        h = self.linear(joined.detach())
        return F.layer_norm(copied, (6,)), joined, copied, h, x.clone(), F.layer_norm(joined.detach(), (6,))


def test_views_of_an_input_everywhere() -> None:
    model = Views().eval()
    fast = rt.compile(model, (torch.randn(1, 2, 3),))
    for rows in (5, 1, 0):
        x = torch.randn(rows, 2, 3)
        got, want = fast(x), model(x)
        for a, b in zip(got, want):
            assert a.shape == b.shape
            close(a, b.detach())
    x = torch.randn(5, 2, 3)
    got = fast(x)
    for index in (2, 4):  # what the model copies is not the caller's memory
        got[index].zero_()
    assert (x != 0).any()


@pytest.mark.parametrize("model", [DataDependent(), nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))])
def test_bind_of_what_is_not_one_native_call(model: nn.Module) -> None:
    model.eval()
    x, out = torch.rand(3, 64), torch.empty(3, 64)
    step = rt.compile(model, (x,)).bind(x, out=out)
    for _ in range(3):
        x.uniform_()
        assert step() is None
        close(out, model(x).detach())


def test_binding_writes_nothing() -> None:
    x, out = torch.rand(3, 8), torch.full((3, 8), 7.0)
    step = rt.compile(nn.Linear(8, 8).eval(), (x,)).bind(x, out=out)
    assert (out == 7.0).all()
    step()
    assert (out != 7.0).all()

"""Modules of TorchScript through what compiles models: native stages, names, open batches, schemes, streams, guards."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.guarded import GuardedModel
from rtaccel.search.workbench import Workbench
from tests.support.scripts.forms import forms_of, loaded
from tests.support.scripts.models import Convolved, Decides, Encoder, Listener, Padded, Resized, Sized

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")


def scripted(model: nn.Module) -> Any:
    return torch.jit.script(model.eval())


def kernels(fast: Any) -> list[str]:
    assert isinstance(fast, CompiledModel)
    return [line.what for line in fast.explain_lines(measure=False)]


@pytest.mark.turns(3)
@pytest.mark.parametrize("make", [Convolved, Listener, Encoder])
def test_every_form_has_the_stages_of_the_python_model(make: type[nn.Module]) -> None:
    model = make().eval()
    x = torch.randn(2, *model.shape)
    plain = rt.compile(model, (x,))
    assert isinstance(plain, CompiledModel)
    assert plain.native[0] == plain.native[1]
    forms = forms_of(model, (x,))
    for name in ("loaded", "traced, loaded", "frozen, loaded", "optimized"):
        fast = rt.compile(forms[name], (x,), strict=True)
        assert isinstance(fast, CompiledModel)
        assert fast.native == plain.native, name
        assert fast.batch == plain.batch, name
        more = torch.randn(5, *model.shape)
        torch.testing.assert_close(fast(more), model(more).detach(), rtol=1e-4, atol=1e-5)


def test_a_recurrent_layer_is_the_same_stage() -> None:
    model = Listener().eval()
    x = torch.randn(2, *model.shape)
    wanted = sorted(kernels(rt.compile(model, (x,))))
    assert any("gru" in what for what in wanted)
    forms = forms_of(model, (x,))
    for name in ("scripted", "traced", "frozen"):
        assert sorted(kernels(rt.compile(forms[name], (x,)))) == wanted, name


def test_stages_and_schemes_have_the_dotted_names() -> None:
    model = Listener().eval()
    x = torch.randn(1, *model.shape)
    scheme = {"part.first": "w8a8"}
    plain = rt.compile(model, (x,), scheme=scheme)
    forms = forms_of(model, (x,))
    assert len(forms) == 8
    for name in ("scripted", "loaded", "traced", "frozen"):
        fast = rt.compile(forms[name], (x,), scheme=scheme)
        names = [(line.name, line.what) for line in fast.explain_lines(measure=False)]
        wanted = [(line.name, line.what) for line in plain.explain_lines(measure=False)]
        if name != "frozen":  # which keeps the names of modules with weights alone
            assert names == wanted, name
        assert {"gru", "part.first", "part.second"} <= {line for line, _ in names}
        assert "part.first (input)" in dict(names)
        assert fast.explain(measure=False).startswith("Listener: ")


@pytest.mark.parametrize("make", [Sized, Resized])
def test_sizes_in_a_trace_leave_the_batch_open(make: type[nn.Module]) -> None:
    """A trace computes with sizes as tensors; as real tensors they would have fixed the batch, or ended in PyTorch."""
    model = make().eval()
    x = torch.randn(3, *model.shape)
    for script in (torch.jit.trace(model, x), loaded(torch.jit.trace(model, x))):
        fast = rt.compile(script, (x,), strict=True)
        assert not fast.batch.fixed
        for n in (1, 7):
            more = torch.randn(n, *model.shape)
            torch.testing.assert_close(fast(more), model(more).detach(), rtol=1e-5, atol=1e-6)


def test_a_script_within_a_python_model() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.jit.script(Listener().eval())
            self.same = self.body
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x) + self.same.twice(x[:, 0, :3]))

    model, x = Whole().eval(), torch.randn(2, 5, 4)
    before = copy.deepcopy(model.state_dict())
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)
    assert isinstance(model.body, torch.jit.ScriptModule)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "body.part.first" in {line.name for line in fast.explain_lines(measure=False)}


def test_a_scripted_function_within_a_python_model() -> None:
    function = torch.jit.CompilationUnit(
        "def act(x, n: int):\n  for i in range(n):\n    x = x.relu() * 0.5\n  return x\n"
    ).act

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.act = nn.Linear(4, 4), function

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.lin(x), 2)

    model, x = Whole().eval(), torch.randn(2, 4)
    torch.testing.assert_close(rt.compile(model, (x,), strict=True)(x), model(x).detach())


def test_numbers_that_are_read_are_guarded_and_the_script_answers() -> None:
    model = scripted(Padded())
    x, lengths = torch.randn(2, 9, 8), torch.tensor([7, 4])
    fast = rt.compile(model, (x, lengths))
    assert isinstance(fast, GuardedModel)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for given in (lengths, torch.tensor([5, 2])):
            torch.testing.assert_close(fast(x, given), model(x, given).detach())
    assert fast.calls == (1, 1)


def test_the_line_of_the_script_is_named_that_reads_a_number() -> None:
    x = torch.randn(2, 4)
    source = inspect.getsource(Decides).split("\n")
    line = inspect.getsourcelines(Decides)[1] + next(i for i, text in enumerate(source) if "if bool" in text)
    for script in (scripted(Decides()), loaded(scripted(Decides()))):
        with pytest.raises(rt.UnsupportedProblem, match=rf"reads numbers of its inputs \(models.py:{line}\)"):
            rt.compile(script, (x,), strict=True)


def test_streams() -> None:
    model, window = Listener().eval(), torch.randn(1, 6, 4)
    forms = forms_of(model, (window,))
    for name in ("loaded", "traced", "frozen, loaded"):
        live = rt.stream(forms[name], torch.randn(1, 4))
        for i in range(6):
            got = live.step(window[:, i])
        torch.testing.assert_close(got, model(window).detach(), rtol=1e-4, atol=1e-5)


def test_dynamic_dimensions_by_name() -> None:
    model = scripted(Convolved())
    fast = rt.compile(model, torch.randn(1, 3, 8, 8), dynamic={"x": {2: (6, 9)}})
    x = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_calibration_and_sparsity() -> None:
    model, x = Listener().eval(), torch.randn(2, 5, 4)
    batches = [torch.randn(16, 5, 4)]
    for options in ({"scheme": "w8a8", "calibration": batches}, {"sparsity": "2:4"}):
        plain = rt.compile(model, (x,), **options)(x)
        for script in (scripted(model), torch.jit.freeze(scripted(model))):
            torch.testing.assert_close(rt.compile(script, (x,), **options)(x), plain, rtol=1e-4, atol=1e-4)


def test_the_search_takes_a_script() -> None:
    x = torch.randn(1, 5, 4)
    model = scripted(Listener())
    bench = Workbench(model, x, None)
    assert bench.title == "Listener"
    torch.testing.assert_close(bench.build({"part.first": rt.BFloat16()})(x), model(x).detach(), rtol=0.1, atol=0.05)


def test_state_is_refused_by_its_name_as_of_a_python_model() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin, self.calls = nn.Linear(4, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.lin(x) * self.calls

    script, x = torch.jit.script(Counts().eval()), torch.randn(1, 4)
    with pytest.warns(FallbackWarning, match=r"Counts was not captured .*changes self\.calls when called"):
        fast = rt.compile(script, (x,))
    torch.testing.assert_close(fast(x), script(x).detach())
    assert script.calls == 1

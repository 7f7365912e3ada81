"""What is not read of TorchScript: the model runs as it is, and the warning says what is missing. And mistakes that are seen."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.torchscript import in_python, nodes, numbers, python_calls, scalars
from rtaccel.core.errors import FallbackWarning
from rtaccel.runtime.eager_fallback import UncapturedModel
from tests.support.scripts.models import Convolved, Listener, Sized

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.lin(x))


def falls_back(script: Any, match: str) -> UncapturedModel:
    x = torch.randn(2, 4)
    with pytest.warns(FallbackWarning, match=match):
        fast = rt.compile(script, (x,), scheme="w8a8")
    assert isinstance(fast, UncapturedModel)
    assert torch.equal(fast(x), script(x).detach())
    with pytest.raises(rt.UnsupportedProblem, match=f"a module of TorchScript with.*{match.split('.*')[-1]}"):
        rt.compile(script, (x,), strict=True)
    return fast


def test_an_unknown_node_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(nodes._MADE, "prim::GetAttr")
    script = torch.jit.script(Unread().eval())
    found = falls_back(script, r"Unread was not captured .* prim::GetAttr")
    assert "Unread" in found.explain() and "RecursiveScriptModule" not in found.explain()


def test_hooks_of_the_whole_are_refused() -> None:
    def hook(self: Any, args: tuple[Tensor], result: Tensor) -> Tensor:
        return result + 1

    model = nn.Sequential(nn.Linear(4, 4)).eval()
    hook.__annotations__ = {"args": tuple[Tensor], "result": Tensor, "return": Tensor}
    model.register_forward_hook(hook)
    script = torch.jit.script(model)
    falls_back(script, "Sequential was not captured .*hooks of the whole module")


def test_hooks_of_a_part_are_read() -> None:
    def double(self: Any, args: tuple[Tensor], result: Tensor) -> Tensor:
        return result * 2

    double.__annotations__ = {"args": tuple[Tensor], "result": Tensor, "return": Tensor}
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    model[0].register_forward_hook(double)
    script, x = torch.jit.script(model), torch.randn(2, 4)
    torch.testing.assert_close(rt.compile(script, (x,), strict=True)(x), model(x).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_weights_of_pytorch_are_named() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(Unread().eval(), {nn.Linear}, dtype=torch.qint8).eval()
    script = torch.jit.script(quantized)
    falls_back(script, "Unread was not captured .*the object _packed_params")
    falls_back(torch.jit.freeze(script), "Unread was not captured .*an object of .*LinearPackedParamsBase")


def test_swaps_say_what_to_do_instead() -> None:
    script = torch.jit.script(Unread().eval())
    calls = (
        lambda: rt.quantize_(script, "w8a8"), lambda: rt.sparsify_(script, "2:4"), lambda: rt.prepare_qat_(script, "w8a8"),
        lambda: rt.load_quantized_(script, {}), lambda: rt.keep_zeros(script).__enter__(),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(
            rt.UnsupportedProblem, match=r"Unread, a module of TorchScript; .*rt\.compile with a scheme"
        ):
            call()


def test_arguments_that_do_not_fit_are_said_in_the_words_of_the_script() -> None:
    script = torch.jit.freeze(torch.jit.script(Unread().eval()))
    with pytest.raises(rt.ShapeError, match="2 example inputs"):
        rt.compile(script, (torch.randn(2, 4), 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        rt.compile(script, (torch.randn(2, 5),))
    with pytest.raises(rt.UnsupportedProblem, match="in training mode"):
        rt.compile(torch.jit.script(Unread()), (torch.randn(2, 4),))


MISTAKES: dict[str, tuple[Any, str, Any, type[nn.Module]]] = {
    "a quotient of sizes": (numbers._RULES, "aten::floor_divide", lambda a, b: a, Sized),
    "a product of sizes": (numbers._RULES, "aten::mul", lambda a, b: a * b + 1, Sized),
    "a comparison": (scalars.NUMBERS, "aten::ne", operator.eq, Listener),
    "a branch": (scalars.VALUES, "aten::__isnot__", operator.is_, Listener),
    "a convolution": (python_calls.PYTHON_CALLS, "aten::_convolution", lambda x, *rest: x, Convolved),
    "a tuple": (nodes._MADE, "prim::TupleUnpack", lambda node: lambda whole: whole[::-1], Listener),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_of_ours_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form is held against the script on the example; what is another model falls back, also without verifying."""
    table, key, wrong, make = MISTAKES[name]
    model = make().eval()
    x = torch.randn(3, *model.shape)
    script = torch.jit.trace(model, x) if make is not Listener else torch.jit.script(model)
    assert not isinstance(rt.compile(script, (x,), verify=False), UncapturedModel)
    monkeypatch.setitem(table, key, wrong)
    with pytest.warns(FallbackWarning, match="whose TorchScript is another model in Python|raises"):
        fast = rt.compile(script, (x,), verify=False)
    torch.testing.assert_close(fast(x), model(x).detach())


def test_exported_methods_have_their_defaults() -> None:
    read = in_python("compile", torch.jit.script(Listener().eval()))
    x = torch.randn(2, 3)
    assert torch.equal(read.twice(x), x * 2)
    assert torch.equal(read.twice(x, by=3), x * 3)
    with pytest.raises(AttributeError, match="thrice"):
        read.thrice(x)

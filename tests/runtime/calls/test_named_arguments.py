"""Example inputs by name: any arguments of forward, in any order, keyword-only ones and those of **kwargs too."""

from __future__ import annotations

import collections
from typing import Any, Optional

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Tokens(nn.Module):
    """As models of language take them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, labels: Any = None,
        inputs_embeds: Tensor | None = None, *, gain: Tensor | None = None, **more: Any,
    ) -> dict[str, Tensor]:  # fmt: skip
        x = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        y = self.layer(x)
        if attention_mask is not None:
            y = y * attention_mask[..., None]
        if gain is not None:
            y = y * gain
        if "offset" in more:
            y = y + more["offset"]
        return {"last": y, "pooled": y.mean(1)}


GIVEN = {
    "input_ids": lambda b: torch.randint(0, 20, (b, 5)),
    "attention_mask": lambda b: (torch.rand(b, 5) > 0.3).long(),
    "inputs_embeds": lambda b: torch.randn(b, 5, 8),
    "gain": lambda b: torch.rand(b, 5, 8) + 0.5,
    "offset": lambda b: torch.randn(b, 5, 8),
}
CHOICES = (
    ("input_ids",), ("attention_mask", "input_ids"), ("inputs_embeds",), ("offset", "inputs_embeds"),
    ("gain", "attention_mask", "input_ids"), ("offset", "gain", "inputs_embeds", "attention_mask"),
)  # fmt: skip


def given(names: tuple[str, ...], batch: int) -> dict[str, Tensor]:
    return {name: GIVEN[name](batch) for name in names}


@pytest.mark.parametrize("names", CHOICES, ids="-".join)
def test_results_are_the_models(names: tuple[str, ...]) -> None:
    torch.manual_seed(len(names))
    model = Tokens().eval()
    before = type(model)
    fast = rt.compile(model, collections.UserDict(given(names, 2)), strict=True)
    order = [name for name in ("input_ids", "attention_mask", "inputs_embeds", "gain", "offset") if name in names]
    for batch in (1, 2, 4):
        call = given(names, batch)
        want = model(**call)
        torch.testing.assert_close(fast(**call), want)
        torch.testing.assert_close(fast(*(call[name] for name in order)), want)  # in the order of forward
    assert type(model) is before and "forward" not in vars(model)
    with pytest.raises(rt.ShapeError):
        fast(**call, unknown=torch.zeros(1))


def test_calibration_by_name_and_layers_by_name() -> None:
    torch.manual_seed(1)
    model, names = Tokens().eval(), ("attention_mask", "inputs_embeds")
    batches = [given(names, 16) for _ in range(3)]
    fast = rt.compile(model, given(names, 1), {"layer": "w8a8"}, calibration=batches)
    assert "int8[" in str(fast.explain(measure=False))
    call = given(names, 3)
    want = model(**call)["last"]
    assert 0 < (fast(**call)["last"] - want).abs().max() < 0.1 * want.abs().max()
    with pytest.raises(rt.ShapeError, match="without inputs_embeds"):
        rt.compile(model, given(names, 1), "w8a8", calibration=[{"attention_mask": call["attention_mask"]}])


def test_a_file_has_the_names(tmp_path: Any) -> None:
    model, names = Tokens().eval(), ("inputs_embeds", "gain")
    fast = rt.compile(model, given(names, 2), strict=True)
    rt.save(fast, tmp_path / "named.rta")
    loaded = rt.load(tmp_path / "named.rta")
    assert [name for name, *_ in loaded.inputs] == list(names)
    call = given(names, 2)
    torch.testing.assert_close(loaded(*call.values()), fast(**call))


@pytest.mark.parametrize("wrong", [{}, {"input": torch.zeros(1, 5, dtype=torch.int64)}])
def test_names_that_there_are_not(wrong: dict[str, Tensor]) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    with pytest.raises(rt.ShapeError, match="compile"):
        rt.compile(Plain().eval(), wrong)


def test_a_dict_as_an_argument_stays_one() -> None:
    class Observed(nn.Module):
        def forward(self, observed: dict[str, Tensor]) -> Tensor:
            return observed["a"] + observed["b"]

    model, call = Observed().eval(), {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    assert torch.equal(rt.compile(model, (call,))(call), call["a"] + call["b"])
    assert torch.equal(rt.compile(model, {"observed": call})(observed=call), call["a"] + call["b"])


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, shift: Tensor, gain: float = 2.0, mask: Optional[Tensor] = None) -> Tensor:
        y = self.layer(x) * gain + shift
        return y if mask is None else y * mask


def test_torchscript_by_name() -> None:
    model = torch.jit.script(Scripted().eval())
    call = {"mask": torch.rand(2, 4), "shift": torch.randn(2, 4), "x": torch.randn(2, 4)}
    fast = rt.compile(model, call, strict=True)
    torch.testing.assert_close(fast(**call), model(**call))
    torch.testing.assert_close(fast(call["x"], call["shift"], call["mask"]), model(**call))

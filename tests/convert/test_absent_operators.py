"""A release of torch that has taken an operator out compiles all that does not need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rtaccel
from rtaccel.convert.aten import Absent, aten

FEWER = """
import sys
import torch

real = torch.ops.aten
KEPT = {"linear", "relu", "lstm", "gru", "rnn_tanh", "rnn_relu"}


class Fewer:
    def __getattr__(self, name):
        if sys._getframe(1).f_globals["__name__"].startswith("rtaccel") and name not in KEPT:
            raise AttributeError(name)
        return getattr(real, name)


torch.ops.aten = Fewer()
import rtaccel as rt
from rtaccel.convert.aten import Absent, aten

assert isinstance(aten.softmax.int, Absent), aten.softmax
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)).eval()
x = torch.randn(5, 7)
for fast in (rt.compile(model, (x,), strict=True), rt.compile(model, (x,), scheme="w8a8", calibration=[x], strict=True)):
    torch.testing.assert_close(fast(x), model(x), rtol=0.1, atol=0.1)
with_softmax = rt.compile(torch.nn.Sequential(model, torch.nn.Softmax(-1)).eval(), (x,))
torch.testing.assert_close(with_softmax(x), model(x).softmax(-1), rtol=1e-5, atol=1e-5)
print("as it should be")
"""


def test_of_all_operators_six_are_left() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FEWER], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "as it should be" in ran.stdout


def test_an_operator_that_torch_does_not_have() -> None:
    absent = aten.taken_out_long_ago.default
    assert isinstance(absent, Absent)
    assert {absent: 1}.get(aten.linear.default) is None
    with pytest.raises(NotImplementedError, match=r"torch \S+ has no aten\.taken_out_long_ago\.default"):
        absent(1)


def test_no_rule_names_torch_s_operators_past_it() -> None:
    root = Path(rtaccel.__file__).parent
    named = [p for p in root.rglob("*.py") if "torch.ops.aten" in p.read_text() and p.name != "aten.py"]
    assert not named, f"name operators by rtaccel.convert.aten: {named}"

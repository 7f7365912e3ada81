"""What runs before and after the model, in Python and in C, and loops of several rates."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.realtime import CStep
from tests.realtime.loops import SLACK, compiled, fresh, mlp, slots, until

pytestmark = pytest.mark.filterwarnings("ignore:.*the system refused")


def test_python_callables_are_said_to_be_outside() -> None:
    x, y = slots(7, 5)

    def scale(v: Any) -> Any:
        return v * np.float32(2)

    def picky(v: Any) -> Any:
        if abs(v).max() > 1e4:
            raise KeyError("too much")
        return v - np.float32(1)

    with pytest.warns(UserWarning, match="GIL"):
        loop = rt.Loop(compiled(), x, y, pre=scale, post=[picky], **SLACK)
    loop.start()
    value, stamp = torch.randn(7), time.monotonic_ns()
    x.put(value, stamp_ns=stamp)
    got = torch.tensor(fresh(y, stamp).value)
    torch.testing.assert_close(got, mlp()(value * 2).detach() - 1, rtol=1e-5, atol=1e-5)
    x.put(torch.full((7,), 1e6))
    try:
        with pytest.raises(KeyError, match="too much"):
            loop.join(60)
        with pytest.raises(KeyError):
            loop.stats()
    finally:
        loop.stop()


def test_c_functions_before_and_after(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "steps.c"
    source.write_text(
        "int twice(void* self, const void* const* in, void* const* out) {\n"
        "  const float* x = in[0]; float* y = out[0];\n"
        "  for (int i = 0; i < *(int*)self; ++i) y[i] = 2 * x[i];\n  return 0;\n}\n"
        "int refuse(void* self, const void* const* in, void* const* out) { return 3; }\n"
    )
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(tmp_path / "steps.so"), str(source)], check=True)
    library = ctypes.CDLL(str(tmp_path / "steps.so"))
    seven, five = ctypes.c_int(7), ctypes.c_int(5)
    fast, (x, y) = compiled(), slots()
    pre = CStep(library.twice, (7,), self_pointer=ctypes.addressof(seven), warm=True)
    post = CStep(library.twice, (5,), self_pointer=ctypes.addressof(five), warm=True)
    with rt.Loop(fast, x, y, pre=pre, post=post, spin_us=1000, **SLACK) as loop:
        value, stamp = torch.randn(7), time.monotonic_ns()
        x.put(value, stamp_ns=stamp)
        got = torch.tensor(fresh(y, stamp).value)
        torch.testing.assert_close(got, 2 * mlp()(2 * value).detach(), rtol=1e-5, atol=1e-5)
        until(lambda: loop.stats().warm_runs > 0)
    failing = rt.Loop(CStep(library.refuse, (5,)), *slots(7, 5), **SLACK).start()
    failing._inputs[0].put(torch.zeros(7))
    with pytest.raises(FormatError):
        failing.join(60)
    assert failing.stats(check=False).state == "failed"
    with pytest.raises(ShapeError):
        rt.Loop(fast, x, y, pre=CStep(library.twice, (6,)), **SLACK)


def test_multi_rate_with_a_slot_of_its_own() -> None:
    x, y = slots()
    other_in, other_out = rt.Latest((3,)), rt.Latest((2,))
    other = rt.compile(nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    loop = rt.Loop(compiled(), x, y, **SLACK).every(3, other, write=other_out, read=other_in)
    with loop:
        x.put(torch.zeros(7))
        value = torch.randn(3)
        other_in.put(value)
        until(lambda: other_out.get().status != "none")
        got = torch.tensor(other_out.get().value)
    assert torch.equal(got, other(value[None])[0])

"""GRU that stays on the GPU: the forms of kernels/recurrent/triton/persistent.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE, Specialisation
from rtaccel.kernels.gru import contract
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.config import MULTIPROCESSORS, Form, form_of
from rtaccel.kernels.recurrent.triton.persistent import specialise
from rtaccel.kernels.recurrent.triton.stack import problem_of


def specialisations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    form = form_of(problem_of("gru", contract.GATES, Geometry(64), 32), contract.GATES, MULTIPROCESSORS)
    assert isinstance(form, Form), form
    spec = specialise("gru", form, 64, None).demanding(GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, forbids=(SYSTEM_FENCE,))
    yield replace(spec, slow=True)

"""GRU that stays on the GPU: the forms of kernels/_shared/triton_recurrent_resident.py that are compiled without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.kernels._shared.recurrent import Geometry
from rtaccel.kernels._shared.triton_recurrent_form import MULTIPROCESSORS, Form, form_of
from rtaccel.kernels._shared.triton_recurrent_resident import specialise
from rtaccel.kernels._shared.triton_recurrent_stack import problem_of
from rtaccel.kernels._shared.triton_spec import GPU_DP4A, SYSTEM_FENCE, SYSTEM_LOAD, SYSTEM_STORE, Specialisation
from rtaccel.kernels.gru import contract


def specialisations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    form = form_of(problem_of("gru", contract.GATES, Geometry(64), 32), contract.GATES, MULTIPROCESSORS)
    assert isinstance(form, Form), form
    spec = specialise("gru", form, 64, None).demanding(GPU_DP4A, SYSTEM_LOAD, SYSTEM_STORE, forbids=(SYSTEM_FENCE,))
    yield replace(spec, slow=True)

"""The arguments that end a kernel: named and typed in one place, and in one order in every kernel that has them."""

from __future__ import annotations

import importlib.util

import pytest

from rtaccel.core import settings

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install 'rtaccel[gpu]')", allow_module_level=True)
if settings.triton_interpret():
    pytest.skip("TRITON_INTERPRET=1: interpreted kernels do not name their arguments", allow_module_level=True)

from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_types
from rtaccel.kernels._gpu.triton_spec import Specialisation, leave_out
from tests.triton_checks.support import launches

OPTIONAL = ("compensation_ptr", "row_scale_ptr", "residual_ptr")
SPECS = [d.spec for d in launches.declared()]  # made once for all files of tests
ENDING = [spec for spec in SPECS if {"y_ptr", "multiplier_ptr", "offset_ptr"} <= set(spec.kernel.arg_names)]


def test_types_are_those_of_the_value_in_its_order() -> None:
    types = epilogue_types(True, *OPTIONAL)
    assert tuple(types) == Epilogue._fields[: len(types)]
    assert types["y_ptr"] == "*i8"
    assert epilogue_types(False, "residual_ptr") == {
        "y_ptr": "*fp32", "multiplier_ptr": "*fp32", "offset_ptr": "*fp32", "residual_ptr": "*fp32", "parameter": "fp32",
        "y_inv_scale": "fp32", "y_zero_point": "i32",
    }  # fmt: skip


def test_what_is_not_used_becomes_a_constant() -> None:
    assert leave_out({"a": "i32", "b": "*i8", "c": "fp32"}, b=False, c=3) == ({"a": "i32", "c": "fp32"}, {"b": None})


def test_most_kernels_are_looked_at() -> None:
    assert len({spec.kernel.__name__ for spec in ENDING}) >= 16


@pytest.mark.parametrize("spec", ENDING, ids=lambda spec: spec.name)
def test_a_kernel_has_the_arguments_in_the_order_of_the_value(spec: Specialisation) -> None:
    order = [name for name in spec.kernel.arg_names if name in Epilogue._fields]
    assert order == [name for name in Epilogue._fields if name in order]
    known = epilogue_types(spec.signature["y_ptr"] == "*i8", *OPTIONAL)
    types = {name: kind for name, kind in spec.signature.items() if name in known}
    assert types == {name: known[name] for name in types}
    assert [name for name in spec.signature if name in types] == [name for name in known if name in types]

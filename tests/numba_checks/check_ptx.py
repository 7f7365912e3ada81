"""Numba's CUDA kernels compiled to PTX without a GPU. Started by tests/gpu/test_numba_cuda.py in a process without the simulator.

Every `numba_*.py` file of the kernels that has a function `ptx_forms` is found. A device function is compiled for the card that
Numba believes to have, so a fake one says its compute capability; nothing runs on it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from rtaccel.core import settings

if settings.numba_simulator():
    pytest.skip("the simulator compiles nothing", allow_module_level=True)

sigutils = importlib.import_module("numba.core.sigutils")
dispatcher = importlib.import_module("numba.cuda.dispatcher")
cuda = importlib.import_module("numba.cuda")
alias = importlib.import_module("rtaccel.kernels._gpu.numba_alias")

MNEMONIC = re.compile(r"^\s+(?:@!?%p\d+\s+)?([a-z]\w*(?:\.\w+)+)\s", re.MULTILINE)


def forms() -> list[Any]:
    found = []
    kernels = importlib.import_module("rtaccel.kernels")
    for folder in pkgutil.iter_modules(kernels.__path__):
        package = importlib.import_module(f"{kernels.__name__}.{folder.name}")
        for file in pkgutil.iter_modules(getattr(package, "__path__", [])):
            if file.name.startswith("numba_"):
                module = importlib.import_module(f"{package.__name__}.{file.name}")
                found += list(module.ptx_forms()) if hasattr(module, "ptx_forms") else []
    return found


FORMS = {form.name: form for form in forms()}


def compiled(form: Any, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Counter[str]]:
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=capability))
    for value in list(form.kernel.py_func.__globals__.values()):
        if isinstance(value, dispatcher.CUDADispatcher):
            value.overloads.clear()
    arguments, _ = sigutils.normalize_signature(form.signature)
    ptx, _ = cuda.compile(form.kernel.py_func, arguments, device=False, abi="numba", cc=capability)
    return ptx, Counter(MNEMONIC.findall(ptx))


def violations(form: Any, found: Counter[str]) -> list[str]:
    def has(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in found)

    missing = [f"no {pattern}" for pattern in form.requires if not has(pattern)]
    return missing + [f"{pattern}, which may not be" for pattern in form.forbids if has(pattern)]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (12, 0)], ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("name", sorted(FORMS))
def test_compiles_to_the_instructions_it_should(
    name: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ptx, found = compiled(FORMS[name], capability, monkeypatch)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert not re.search(r"^\s*\.local\s", ptx, re.MULTILINE)  # arrays of a thread that are not in registers
    assert violations(FORMS[name], found) == []


def test_every_kernel_file_has_a_form() -> None:
    assert {"linear_gemv", "csr", "rls"} <= set(FORMS)


def test_what_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that fuses with its sum, and an index of 32 bits, planted."""

    def fuses(x: Any, y: Any) -> None:
        i = cuda.threadIdx.x
        y[i] = x[i] * x[i] + y[i]

    kernel = SimpleNamespace(py_func=fuses)
    planted = alias.PtxSpec("planted", kernel, "void(float32[::1], float32[::1])", (r"bar\.sync",), (alias.FUSED,))
    _, found = compiled(planted, (9, 0), monkeypatch)
    assert violations(planted, found) == [r"no bar\.sync", f"{alias.FUSED}, which may not be"]
    assert re.match(alias.NARROW_INDEX, "mul.lo.s32")
    assert re.match(alias.NARROW_INDEX, "mad.lo.u32")
    assert not re.match(alias.NARROW_INDEX, "mul.lo.s64")

"""Every operator of the table, against the cases that the standard itself comes with."""

from __future__ import annotations

import functools
from collections import defaultdict
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.convert.onnx.table import entries

onnx = pytest.importorskip("onnx", reason="reads ONNX files with the package onnx (extra 'onnx')")
pytestmark = pytest.mark.filterwarnings("ignore")

OPERATORS = sorted({name for domain, name in entries() if domain in ("", "ai.onnx.ml")})
PLAIN = "biuf"

DIFFERENT = {
    # ONNX Runtime, which is what files are made for, takes the rounded size of the output; the standard's reference does not.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}

REFUSED = {
    "Cast": "float8", "CastLike": "float8", "Compress": "fixed sizes", "NonZero": "fixed sizes", "Unique": "fixed sizes",
    "NonMaxSuppression": "fixed sizes", "MaxPool": "indices", "LSTM": "peepholes", "Resize": "whole input",
    "QuantizeLinear": "float8", "DequantizeLinear": "float8", "Identity": "sequence", "If": "sequence", "Loop": "sequence",
    "TreeEnsemble": "by order",
}  # fmt: skip
"""Operators with cases that are refused, and a word of why."""


@functools.cache
def cases() -> dict[str, list[Any]]:
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = defaultdict(list)
    for case in collect_testcases(None):
        if case.data_sets and not case.name.endswith("_expanded") and "training" not in case.name:
            found[case.model.graph.node[0].op_type].append(case)
    return found


def plain(arrays: Any) -> bool:
    """Numbers that torch has, and computes with."""
    return all(isinstance(a, (np.ndarray, np.generic)) and a.dtype.kind in PLAIN for a in arrays)


def computed(case: Any, inputs: list[Any]) -> Any:
    """With as few inputs fixed as the operator's kind of input allows: shapes and the like have to be."""
    names = [entry.name for entry in case.model.graph.input]
    given = dict(zip(names, map(np.asarray, inputs)))
    whole = {n: v for n, v in list(given.items())[1:] if v.dtype.kind in "iub" or v.size <= 8}
    said = None
    for fixed in ({}, whole, given):
        try:
            module = rt.from_onnx(case.model, fixed=fixed)
        except rt.UnsupportedProblem as error:
            said = error
            continue
        with torch.no_grad():
            return module(*(torch.from_numpy(v.copy()) for n, v in given.items() if n not in fixed))
    assert said is not None
    raise said


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_as_the_standard_says(name: str) -> None:
    checked, refused = 0, []
    for case in cases().get(name, ()):
        inputs, outputs = case.data_sets[0]
        if not plain(inputs) or not plain(outputs) or case.name in DIFFERENT:
            continue
        try:
            got = computed(case, list(inputs))
        except rt.UnsupportedProblem as error:
            refused.append((case.name, str(error)))
            continue
        got = got if isinstance(got, tuple) else (got,)
        for have, want in zip(got, outputs):
            want = np.asarray(want)
            assert tuple(have.shape) == want.shape, case.name
            assert str(have.dtype) == f"torch.{want.dtype}", case.name
            loose = 1e-3 if want.dtype == np.float16 else case.rtol
            np.testing.assert_allclose(
                have.double().numpy(), want.astype(np.float64), loose, max(case.atol, 1e-6), err_msg=case.name
            )
        checked += 1
    if refused:
        assert name in REFUSED, refused
    if name in OWN_TESTS:
        return
    assert checked or refused or not cases().get(name), f"no case of {name} was looked at"


OWN_TESTS = {"LabelEncoder", "Upsample", "Scatter", "Cast", "CastLike", "SimplifiedLayerNormalization"}
"""Newer opsets do not have them, or their cases are of types that torch has not: files beside this one have tests of them."""


def test_cases_of_other_operators_are_taken_or_refused() -> None:
    """Those with graphs inside, of older opsets too, and those that the table does not have: no error of Python's own."""
    seen = 0
    for name in sorted(set(cases()) - set(OPERATORS) | {"If", "Loop", "Scan"}):
        for case in cases()[name]:
            seen += 1
            with suppress(rt.RtaccelError):
                rt.from_onnx(case.model)
    assert seen > 20

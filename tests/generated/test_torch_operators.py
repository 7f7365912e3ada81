"""torch's own samples of its operators: each call compiled is right, or refused with a typed error; never another exception.

The samples are those that torch tests itself with: broadcasting, dimensions of size 1, sums over everything, odd arguments.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt

pytest.importorskip("expecttest", reason="torch's samples need it: pip install expecttest")
from torch.testing._internal.common_methods_invocations import op_db

MOST = 1 if os.environ.get("CI") else 4
"""Samples of each operator."""

RANDOM = (
    "dropout",
    "bernoulli",
    "multinomial",
    "rand",
    "normal",
    "uniform",
    "exponential",
    "geometric",
    "cauchy",
    "_like",
)
ELSEWHERE = (
    "linalg", "sparse", "masked", "fft", "signal", "torch.ops", "_refs", "jiterator", "lobpcg", "svd", "pca",
    "cholesky", "lu", "qr", "eig", "orm", "geqrf", "inverse", "igamma", "histogram", "ctc_loss", "empty", "resize",
    "fractional_max_pool", "segment_reduce",
)  # fmt: skip
"""Decompositions of matrices and functions that no network of the suite calls; random numbers and memory that is not set."""


def wanted(op: Any) -> bool:
    apart = any(part in op.name for part in (*RANDOM, *ELSEWHERE))
    return not apart and torch.float32 in op.dtypes


OF_ITS_OWN = {
    **dict.fromkeys(("int", "long", "short", "byte", "char"), "whole numbers of what is not finite are not defined"),
    **dict.fromkeys(("nn.functional.multi_margin_loss", "nn.functional.multilabel_margin_loss", "cdist"), "drops a NaN"),
    **dict.fromkeys(("std_mean", "std_mean.unbiased", "var_mean", "var_mean.unbiased"), "the mean of an infinity is NaN there"),
    **dict.fromkeys(("stft", "istft", "nn.functional.grid_sample"), "parts that are 0 in torch are sums of what is not finite"),
    "_upsample_bilinear2d_aa": "torch reads neighbors of weight 0 too",
    **dict.fromkeys(("prod", "tensordot", "matrix_exp", "_softmax_backward_data"), "the order of a sum or product decides"),
    **dict.fromkeys(("searchsorted", "bucketize"), "the sequence is not in order"),
    "mode": "torch counts NaN in its own way",
}  # fmt: skip
"""Where an operand that is not finite gives what torch gives by chance."""

OPERATORS = {f"{op.name}{'.' * bool(op.variant_test_name)}{op.variant_test_name}": op for op in op_db if wanted(op)}


class Call(nn.Module):
    """The operator on some of its arguments as inputs; the others are as in the sample."""

    def __init__(self, op: Any, args: list[Any], kwargs: dict[str, Any], places: list[int]) -> None:
        super().__init__()
        self.op, self.given, self.named, self.places = op, args, kwargs, places

    def forward(self, *inputs: Tensor) -> Any:
        args = list(self.given)
        for place, tensor in zip(self.places, inputs):
            args[place] = tensor
        return self.op(*args, **self.named)


def samples(op: Any) -> list[tuple[Call, tuple[Tensor, ...]]]:
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # torch seeds once a sample, and writes down each time who asked, for a GPU
        patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        torch.manual_seed(0)
        drawn = [s for s in op.sample_inputs("cpu", torch.float32, requires_grad=False) if isinstance(s.input, Tensor)]
    random.Random(1).shuffle(drawn)
    found = []
    for sample in drawn:
        args = [sample.input, *sample.args]
        places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        tensors = [args[i] for i in places]
        if sample.kwargs.get("dropout_p") or not all(
            t.dim() and t.numel() and t.layout == torch.strided for t in tensors
        ):
            continue
        rest = [None if i in places else arg for i, arg in enumerate(args)]
        found.append((Call(op.op, rest, sample.kwargs, places).eval(), tuple(t.detach().clone() for t in tensors)))
        if len(found) == MOST:
            break
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_samples(name: str) -> None:
    for model, inputs in samples(OPERATORS[name]):
        try:
            want = model(*(x.clone() for x in inputs))
        except Exception:  # a sample that torch itself refuses here
            continue
        try:
            got = rt.compile(model, inputs)(*inputs)
        except rt.RtaccelError:
            continue
        same(want, got)


@pytest.mark.turns(3)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(OPERATORS.keys() - OF_ITS_OWN.keys()))
def test_samples_with_one_that_is_not_finite(name: str) -> None:
    """NaN, and an infinity, in one place of each operand: what it reaches, and what it leaves alone, is as in torch."""
    generator = torch.Generator().manual_seed(len(name))
    for model, inputs in samples(OPERATORS[name]):
        try:
            model(*(x.clone() for x in inputs))
            fast = rt.compile(model, inputs)
        except Exception:  # one of the two refuses the sample
            continue
        for value in (float("nan"), float("inf"), -float("inf")):
            for at in range(len(inputs)):
                given = [damaged(x, value, generator) if i == at else x.clone() for i, x in enumerate(inputs)]
                try:
                    want = model(*(x.clone() for x in given))
                    got = fast(*given)
                except (
                    Exception
                ):  # torch refuses the numbers, or a typed error names another shape than that of the example
                    continue
                same(want, got)


def damaged(x: Tensor, value: float, generator: torch.Generator) -> Tensor:
    """With one number replaced."""
    made = x.clone(memory_format=torch.contiguous_format)
    if made.is_floating_point():
        made.view(-1)[int(torch.randint(made.numel(), (), generator=generator))] = value
    return made


def same(want: Any, got: Any) -> None:
    expected, found = pytree.tree_leaves(want), pytree.tree_leaves(got)
    assert len(expected) == len(found)
    for a, b in zip(expected, found):
        if not isinstance(a, Tensor):
            assert a == b or (a != a and b != b)
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        size = 1.0
        if a.is_floating_point() or a.is_complex():
            finite = a[a.isfinite()].abs()
            size = max(1.0, float(finite.max())) if finite.numel() else 1.0
        torch.testing.assert_close(b, a, rtol=2e-4, atol=2e-5 * size, equal_nan=True)

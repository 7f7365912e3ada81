"""Wrong inputs of `quantize_`, `sparsify_`, `restore_`, `load_quantized_`, `keep_zeros`, the modules of rt.nn and calibration.

CASES: (name, call, exact type of the error, words that its message must hold). A call makes all that it needs.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn.stored import NoFloatWeight
from tests.error_inputs.swap_models import (
    Packed,
    Two,
    changed,
    failing,
    labelled,
    linear,
    load,
    loaded,
    model,
    part_in_training,
    rows,
    swapped,
    with_nan,
    without_originals,
    words,
)

Case = tuple[str, Callable[[], object], type[Exception], tuple[str, ...]]

UNSUPPORTED, SHAPE, FORMAT = rt.UnsupportedProblem, rt.ShapeError, rt.FormatError


MODELS: list[Case] = [
    (f"{verb}: {kind} as a model", lambda call=call, thing=thing: call(thing), UNSUPPORTED, (said, "nn.Module"))
    for verb, call in {
        "quantize_": lambda m: rt.quantize_(m, "w8a8"),
        "sparsify_": lambda m: rt.sparsify_(m, "2:4"),
        "restore_": lambda m: rt.restore_(m),
        "load_quantized_": lambda m: rt.load_quantized_(m, {}),
        "keep_zeros": lambda m: rt.keep_zeros(m).__enter__(),
    }.items()
    for kind, thing, said in (
        ("a lambda", lambda x: x, "function"),
        ("a NumPy array", np.zeros(3), "ndarray"),
        ("none", None, "NoneType"),
        ("a class", nn.Linear, "type"),
    )
]

MODES: list[Case] = [
    ("quantize_: training", lambda: rt.quantize_(model().train(), "w8a8"), UNSUPPORTED, ("training", "eval()")),
    ("sparsify_: training", lambda: rt.sparsify_(model().train(), "2:4"), UNSUPPORTED, ("training", "eval()")),
    ("load_quantized_: training", lambda: load({}, model().train()), UNSUPPORTED, ("training", "eval()")),
    ("quantize_: a part in training", lambda: rt.quantize_(part_in_training(), "w8a8", calibration=[rows()]), UNSUPPORTED,
     ("1, a BatchNorm1d in training mode", "eval()")),
    ("sparsify_: a part in training", lambda: rt.sparsify_(part_in_training(), "2:4", calibration=[rows()]), UNSUPPORTED,
     ("1, a BatchNorm1d in training mode", "eval()")),
    ("quantize_: a lone linear", lambda: rt.quantize_(nn.Linear(3, 3).eval(), "w8a8"), UNSUPPORTED, ("itself a Linear", "from_float")),
    ("quantize_: a lone LSTM", lambda: rt.quantize_(nn.LSTM(3, 3).eval(), "w8a8"), UNSUPPORTED, ("itself a LSTM", "QuantLSTM")),
    ("quantize_: a lone swapped layer", lambda: rt.quantize_(linear().eval(), "w8a8"), UNSUPPORTED, ("itself a QuantLinear",)),
    ("sparsify_: a lone linear", lambda: rt.sparsify_(nn.Linear(3, 3).eval(), "2:4"), UNSUPPORTED, ("itself a Linear",)),
    ("load_quantized_: a lone linear", lambda: load({}, nn.Linear(3, 3).eval()), UNSUPPORTED, ("itself a Linear",)),
    ("load_quantized_: a lone swapped layer", lambda: load({}, linear().eval()), UNSUPPORTED, ("itself a QuantLinear",)),
    ("restore_: loaded layers", lambda: rt.restore_(loaded()), UNSUPPORTED, ("0", "load_quantized_")),
    ("restore_: originals not kept", lambda: rt.restore_(without_originals()), UNSUPPORTED, ("keep_original=False",)),
    ("keep_zeros: no zeros", lambda: rt.keep_zeros(model()).__enter__(), UNSUPPORTED, ("without zeros", "sparsify_")),
]  # fmt: skip


SCHEMES: list[Case] = [
    ("quantize_: a misspelt scheme", lambda: rt.quantize_(model(), "w8a"), FORMAT, ("'w8a'", "Did you mean 'w8a8'")),
    ("quantize_: an unknown scheme", lambda: rt.quantize_(model(), "tiny"), FORMAT, ("'tiny'", "w8a8", "w4a16")),
    ("quantize_: a number", lambda: rt.quantize_(model(), 8), FORMAT, ("8", "rt.W8A8()")),
    ("quantize_: none", lambda: rt.quantize_(model(), None), FORMAT, ("None",)),
    ("quantize_: a class", lambda: rt.quantize_(model(), rt.W8A8), FORMAT, ("W8A8", "rt.W8A8()")),
    ("quantize_: a dtype", lambda: rt.quantize_(model(), torch.int8), FORMAT, ("torch.int8",)),
    ("quantize_: a misspelt scheme in a dict", lambda: rt.quantize_(model(), {"0": "w4a17"}), FORMAT, ("w4a17", "w4a16")),
    ("quantize_: a pattern that is a number", lambda: rt.quantize_(model(), {0: "w8a8"}), FORMAT, ("0 as a pattern",)),
    ("quantize_: a pattern that is a module", lambda: rt.quantize_(model(), {nn.Linear: "w8a8"}), FORMAT, ("as a pattern",)),
    ("quantize_: float8", lambda: rt.quantize_(model(), rt.Float8()), UNSUPPORTED, ("float8", "w8a8")),
    ("quantize_: static without data", lambda: rt.quantize_(model(), rt.W8A8("static")), FORMAT, ("0 without calibration",)),
    ("quantize_: W4A8 static without data", lambda: rt.quantize_(model(), rt.W4A8(activation="static")), FORMAT, ("W4A8", "static")),
    ("W8A8: activation", lambda: rt.W8A8("sometimes"), FORMAT, ("'sometimes'", "static")),
    ("W8A8: observer", lambda: rt.W8A8(observer="eye"), FORMAT, ("'eye'", "percentile")),
    ("W4A8: group of 17", lambda: rt.W4A8(17), FORMAT, ("group_size=17", "multiple of 16")),
    ("W4A16: group of 0", lambda: rt.W4A16(0), FORMAT, ("group_size=0",)),
    ("W4A16: group of text", lambda: rt.W4A16("32"), FORMAT, ("group_size='32'",)),
    ("sparsify_: W8A16", lambda: rt.sparsify_(model(), "2:4", scheme="w8a16"), UNSUPPORTED, ("w8a16", "w8a8")),
    ("sparsify_: W4A8 unstructured", lambda: rt.sparsify_(model(), rt.Unstructured(0.5), scheme="w4a8"), UNSUPPORTED, ("2:4",)),
    ("sparsify_: static without data", lambda: rt.sparsify_(model(), "2:4", scheme=rt.W8A8("static")), FORMAT, ("calibration",)),
    ("sparsify_: unknown pattern", lambda: rt.sparsify_(model(), "3:4"), FORMAT, ("'3:4'", "2:4")),
    ("sparsify_: a number", lambda: rt.sparsify_(model(), 0.5), FORMAT, ("0.5", "rt.Unstructured")),
    ("sparsify_: a pattern that is a number", lambda: rt.sparsify_(model(), {3: "2:4"}), FORMAT, ("3 as a pattern",)),
    ("sparsify_: more than all", lambda: rt.sparsify_(model(), rt.Unstructured(1.5)), FORMAT, ("1.5", "0..1")),
    ("sparsify_: a negative share", lambda: rt.sparsify_(model(), rt.Unstructured(-0.1)), FORMAT, ("-0.1",)),
    ("BlockSparse: an empty block", lambda: rt.BlockSparse((0, 4), 0.5), FORMAT, ("block=(0, 4)",)),
    ("BlockSparse: three sides", lambda: rt.BlockSparse((4, 4, 4), 0.5), FORMAT, ("block=",)),
    ("SemiStructured: 70 %", lambda: rt.SemiStructured(0.7), FORMAT, ("0.7", "0.5")),
]  # fmt: skip

OPTIONS: list[Case] = [
    ("quantize_: filter that is text", lambda: rt.quantize_(model(), "w8a8", "0"), FORMAT, ("filter_fn='0'",)),
    ("quantize_: filter that is a list", lambda: rt.quantize_(model(), "w8a8", ["0"]), FORMAT, ("filter_fn=",)),
    ("quantize_: no rows", lambda: rt.quantize_(model(), "w8a8", rows=0), FORMAT, ("rows=0",)),
    ("quantize_: minus one row", lambda: rt.quantize_(model(), "w8a8", rows=-1), FORMAT, ("rows=-1",)),
    ("quantize_: half a row", lambda: rt.quantize_(model(), "w8a8", rows=0.5), FORMAT, ("rows=0.5",)),
    ("quantize_: true rows", lambda: rt.quantize_(model(), "w8a8", rows=True), FORMAT, ("rows=True",)),
    ("quantize_: 2^62 rows", lambda: rt.quantize_(model(), "w8a8", rows=2**62), FORMAT, ("rows=",)),
    ("quantize_: force by text", lambda: rt.quantize_(model(), "w8a8", force="yes"), FORMAT, ("'yes'", "True or False")),
    ("sparsify_: filter that is text", lambda: rt.sparsify_(model(), "2:4", "0"), FORMAT, ("filter_fn='0'",)),
    ("sparsify_: no rows", lambda: rt.sparsify_(model(), "2:4", rows=0), FORMAT, ("rows=0",)),
    ("sparsify_: swap by text", lambda: rt.sparsify_(model(), "2:4", swap="no"), FORMAT, ("'no'",)),
    ("sparsify_: unknown method", lambda: rt.sparsify_(model(), "2:4", method="magic"), FORMAT, ("'magic'", "wanda")),
    ("sparsify_: unknown allocation", lambda: rt.sparsify_(model(), "2:4", allocation="fair"), FORMAT, ("'fair'", "global")),
    ("sparsify_: method without data", lambda: rt.sparsify_(model(), "2:4", method="wanda"), FORMAT, ("without calibration",)),
    ("sparsify_: too few rows", lambda: rt.sparsify_(model(), "2:4", calibration=[rows(1, 12)]), FORMAT, ("1 calibration rows",)),
    ("quantize_: a NaN in a weight", lambda: rt.quantize_(with_nan(model(), "2.weight"), "w8a8"), FORMAT, ("2", "nan")),
    ("quantize_: an infinite bias", lambda: rt.quantize_(with_nan(model(), "0.bias", float("inf")), "w8a8"), FORMAT, ("0", "bias")),
    ("sparsify_: a NaN in a weight", lambda: rt.sparsify_(with_nan(model(), "2.weight"), "2:4"), FORMAT, ("2.weight[0, 0]",)),
]  # fmt: skip

DATA: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "no batch": (list, FORMAT, ("calibration",)),
    "a spent generator": (lambda: (x for x in ()), FORMAT, ("calibration",)),
    "a loader with labels": (
        labelled,
        SHAPE,
        ("the batch has 2 tensors, the model takes 1", "pass `(x for x, _ in loader)`"),
    ),
    "three parts": (lambda: [(rows(), rows(), rows())], SHAPE, ("has 3 tensors, the model takes 1",)),
    "no parts": (lambda: [()], SHAPE, ("has 0 tensors, the model takes 1",)),
    "narrower": (lambda: [rows(8, 11)], rt.RtaccelError, ("float32[8, 11]",)),
    "wider": (lambda: [rows(8, 13)], rt.RtaccelError, ("float32[8, 13]",)),
    "half": (lambda: [rows().half()], rt.RtaccelError, ("float16[8, 12]",)),
    "double": (lambda: [rows().double()], rt.RtaccelError, ("float64[8, 12]",)),
    "integers": (lambda: [torch.ones(8, 12, dtype=torch.int64)], rt.RtaccelError, ("int64[8, 12]",)),
    "meta": (lambda: [rows().to("meta")], rt.RtaccelError, ("meta",)),
    "a NaN": (lambda: [torch.full((8, 12), float("nan"))], FORMAT, ("NaN", "finite")),
    "an infinity in the second batch": (lambda: [rows(), rows() / 0], FORMAT, ("infinity",)),
    "a dict": (lambda: {"input": rows()}, SHAPE, ("dict", "iterable of batches")),
    "text": (lambda: "data.pt", SHAPE, ("str", "iterable of batches")),
    "a number": (lambda: 3, SHAPE, ("int", "iterable of batches")),
    "texts": (lambda: ["a", "b"], rt.RtaccelError, ("str",)),
    "numbers": (lambda: [1, 2], rt.RtaccelError, ("int",)),
    "none": (lambda: [None], rt.RtaccelError, ("NoneType",)),
    "a generator that raises": (failing, FORMAT, ("KeyError", "file 7 is gone", "batch 1")),
    "arrays of text": (lambda: [np.array([["a"] * 12])], FORMAT, ("ndarray", "numbers")),
    "arrays of doubles": (lambda: [np.zeros((8, 12))], rt.RtaccelError, ("float64[8, 12]",)),
    "narrow arrays": (lambda: [np.zeros((8, 11), dtype="float32")], rt.RtaccelError, ("float32[8, 11]",)),
}
CALIBRATORS: dict[str, Callable[[Any], object]] = {
    "quantize_": lambda data: rt.quantize_(model(), "w8a8", calibration=data),
    "sparsify_": lambda data: rt.sparsify_(model(), rt.Unstructured(0.5), calibration=data, method="wanda"),
    "compile": lambda data: rt.compile(model(), (rows(1, 12),), "w8a8", calibration=data),
}
CALIBRATION: list[Case] = [
    (
        f"{verb}: calibration with {name}",
        lambda call=call, data=data: call(data()),
        error,
        said if verb != "compile" else said[:1],
    )
    for verb, call in CALIBRATORS.items()
    for name, (data, error, said) in DATA.items()
]
CALIBRATION += [
    ("quantize_: one part for two", lambda: rt.quantize_(Two().eval(), "w8a8", calibration=[rows()]), SHAPE, ("has 1 tensor, the model takes 2",)),
    ("quantize_: unknown keyword", lambda: rt.quantize_(Two().eval(), "w8a8", calibration=[{"x": rows(), "z": rows()}]), SHAPE, ("keyword", "z")),
    ("quantize_: packed sequences", lambda: rt.quantize_(Packed().eval(), "w8a8", calibration=[rows(5, 12)]), UNSUPPORTED,
     ("PackedSequence", "memory")),
    ("compile: one part for two", lambda: rt.compile(Two().eval(), (rows(), rows(8, 3)), "w8a8", calibration=[rows()]), SHAPE,
     ("has 1 tensor, the model takes 2",)),
    ("compile: nested otherwise", lambda: rt.compile(Two().eval(), (rows(), rows(8, 3)), "w8a8", calibration=[([rows()], rows(8, 3))]), SHAPE,
     ("nested as the example", "float32[batch, 12]")),
]  # fmt: skip

STATES: list[Case] = [
    ("load_quantized_: none", lambda: load(None), FORMAT, ("NoneType", "state dict")),
    ("load_quantized_: a path", lambda: load("model.pt"), FORMAT, ("str", "state dict")),
    ("load_quantized_: a list", lambda: load([1, 2]), FORMAT, ("list",)),
    ("load_quantized_: numbers for names", lambda: load({1: rows()}), FORMAT, ("names",)),
    ("load_quantized_: nothing", lambda: load({}), FORMAT, ("no 0.weight in the state",)),
    ("load_quantized_: a layer missing", lambda: load(changed(_2__qweight=None)), FORMAT, ("2", "qweight")),
    ("load_quantized_: a scale missing", lambda: load(changed(_2__weight_scale=None)), FORMAT, ("2", "weight_scale")),
    ("load_quantized_: a zero point missing", lambda: load(changed(_2__input_zero_point=None)), FORMAT, ("2", "input_zero_point")),
    ("load_quantized_: a description missing", lambda: load(changed(_2___extra_state=None)), FORMAT, ("2.weight",)),
    ("load_quantized_: one too many", lambda: load(changed(_2__more=rows())), FORMAT, ("more", "2")),
    ("load_quantized_: a name of none", lambda: load(changed(other=rows())), FORMAT, ("other",)),
    ("load_quantized_: weight cut", lambda: load(changed(_0__qweight=lambda t: t[:-1])), FORMAT, ("0", "qweight: int8[15, 12]")),
    ("load_quantized_: weight in float", lambda: load(changed(_0__qweight=lambda t: t.float())), FORMAT, ("0", "qweight: float32")),
    ("load_quantized_: -128", lambda: load(changed(_0__qweight=lambda t: t.fill_(-128))), FORMAT, ("0", "-128")),
    ("load_quantized_: scale of 0", lambda: load(changed(_0__weight_scale=lambda t: t * 0)), FORMAT, ("0", "weight_scale")),
    ("load_quantized_: scale of NaN", lambda: load(changed(_0__weight_scale=lambda t: t * float("nan"))), FORMAT, ("0", "NaN")),
    ("load_quantized_: zero point of 128", lambda: load(changed(_0__input_zero_point=lambda t: t * 0 + 128)), FORMAT, ("128", "-128..127")),
    ("load_quantized_: a list for a tensor", lambda: load(changed(_0__bias=lambda t: t.tolist())), FORMAT, ("0", "bias: list")),
    ("load_quantized_: a meta tensor", lambda: load(changed(_0__bias=lambda t: t.to("meta"))), FORMAT, ("bias", "meta")),
    ("load_quantized_: a sparse tensor", lambda: load(changed(_0__bias=lambda t: t.to_sparse())), FORMAT, ("bias", "sparse")),
    ("load_quantized_: description of float", lambda: load(changed(_0___extra_state=torch.zeros(3))), FORMAT, ("0", "description")),
    ("load_quantized_: empty description", lambda: load(changed(_0___extra_state=words(b""))), FORMAT, ("0", "description")),
    ("load_quantized_: description of noise", lambda: load(changed(_0___extra_state=words(b"\xff\x00{"))), FORMAT, ("0", "description")),
    ("load_quantized_: a number as description", lambda: load(changed(_0___extra_state=words(b"3"))), FORMAT, ("0", "description")),
    ("load_quantized_: a deep description", lambda: load(changed(_0___extra_state=words(b"[" * 4000))), FORMAT, ("0", "description")),
    ("load_quantized_: a long description", lambda: load(changed(_0___extra_state=words(b"{" * 9000))), FORMAT, ("0", "description")),
    ("load_quantized_: a layer of no name", lambda: load(changed(_0___extra_state=words(b'{"layer": "Magic"}'))), FORMAT, ("0", "'Magic'")),
    ("load_quantized_: a layer of another kind", lambda: load(changed(_0___extra_state=words(b'{"layer": "QuantLSTM"}'))), FORMAT,
     ("0", "QuantLSTM in the state")),
    ("load_quantized_: no scheme", lambda: load(changed(_0___extra_state=words(b'{"layer": "QuantLinear"}'))), FORMAT, ("0", "scheme")),
    ("load_quantized_: a scheme of none", lambda: load(changed(_0___extra_state=words(b'{"layer": "QuantLinear", "scheme": 7}'))), FORMAT,
     ("0", "7")),
    ("load_quantized_: a group in W8A8", lambda: load(changed(_0___extra_state=words(
        b'{"layer": "QuantLinear", "scheme": "w8a8", "group_size": 32}'))), FORMAT, ("0", "group_size")),
    ("load_quantized_: group of 17", lambda: load(changed(_0___extra_state=words(
        b'{"layer": "QuantLinear", "scheme": "w4a8", "group_size": 17}'))), FORMAT, ("0", "group_size=17")),
    ("load_quantized_: a wider model", lambda: load(changed(), model(13)), FORMAT, ("0", "in_features=12")),
    ("load_quantized_: another architecture", lambda: load(changed(), nn.Sequential(*(nn.LayerNorm(4) for _ in range(3))).eval()), FORMAT, ("0", "LayerNorm")),
    ("load_quantized_: a model without the layer", lambda: load(changed(), nn.Sequential().eval()), FORMAT, ("0", "QuantLinear of that name")),
    ("load_quantized_: the state of a layer", lambda: load(linear().state_dict()), FORMAT, ("the model", "load_state_dict")),
    ("load_quantized_: a swapped model, a float state", lambda: load(model().state_dict(), swapped()), FORMAT, ("0", "restore_")),
    ("load_quantized_: codes under a float name", lambda: load({**model().state_dict(), "0.weight": torch.ones(16, 12, dtype=torch.int8)}),
     FORMAT, ("0.weight: int8",)),
    ("load_quantized_: a float weight cut", lambda: load({**model().state_dict(), "0.weight": rows(16, 11)}), FORMAT, ("0.weight",)),
    ("a swapped model: another scheme", lambda: swapped().load_state_dict(changed(_0___extra_state=linear().state_dict()["_extra_state"])),
     FORMAT, ("0", "w8a16")),
    ("a swapped model: scale of 0", lambda: swapped().load_state_dict(changed(_2__weight_scale=lambda t: t * 0)), FORMAT, ("2", "weight_scale")),
    ("a swapped model: codes cut", lambda: swapped().load_state_dict(changed(_2__qweight=lambda t: t[1:])), FORMAT, ("2", "qweight")),
    ("a layer on meta: a copy", lambda: linear().to("meta").load_state_dict(linear().state_dict()), FORMAT, ("meta", "assign=True")),
]  # fmt: skip

LAYERS: dict[str, tuple[type[Any], Callable[[], nn.Module], tuple[int, ...]]] = {
    "QuantLinear": (rt.nn.QuantLinear, lambda: nn.Linear(12, 5), (2, 12)),
    "SparseLinear": (rt.nn.SparseLinear, lambda: nn.Linear(12, 5), (2, 12)),
    "QuantConv1d": (rt.nn.QuantConv1d, lambda: nn.Conv1d(12, 5, 1), (2, 12, 4)),
    "QuantConv2d": (rt.nn.QuantConv2d, lambda: nn.Conv2d(12, 5, 1), (2, 12, 4, 4)),
    "QuantLSTM": (rt.nn.QuantLSTM, lambda: nn.LSTM(12, 5), (3, 2, 12)),
    "QuantGRU": (rt.nn.QuantGRU, lambda: nn.GRU(12, 5), (3, 2, 12)),
    "QuantMultiheadAttention": (rt.nn.QuantMultiheadAttention, lambda: nn.MultiheadAttention(12, 3), (3, 2, 12)),
}


def _made(name: str) -> nn.Module:
    cls, plain, _ = LAYERS[name]
    return cls.from_float(plain().eval(), "w8a8")


def _call(name: str, change: Callable[[Tensor], Any]) -> object:
    x = change(rows(*LAYERS[name][2]))
    return _made(name)(x, x, x) if "Attention" in name else _made(name)(x)


MODULES: list[Case] = []
for _name, (_cls, _plain, _) in LAYERS.items():
    _said = ("Quant",) if "Attention" in _name else (_name,)
    MODULES += [
        (f"{_name}: of another layer", lambda cls=_cls: cls.from_float(nn.ReLU()), UNSUPPORTED, (_name, "ReLU")),
        (f"{_name}: of none", lambda cls=_cls: cls.from_float(None), UNSUPPORTED, (_name, "NoneType")),
        (f"{_name}: of half", lambda cls=_cls, plain=_plain: cls.from_float(plain().half(), "w8a8"), UNSUPPORTED, ("float16",)),
        (f"{_name}: unknown scheme", lambda cls=_cls, plain=_plain: cls.from_float(plain(), "w9"), FORMAT, ("'w9'",)),
        (f"{_name}: float8", lambda cls=_cls, plain=_plain: cls.from_float(plain(), rt.Float8()), UNSUPPORTED, ("float8",)),
        (f"{_name}: static without data", lambda cls=_cls, plain=_plain: cls.from_float(plain(), rt.W8A8("static")), FORMAT,
         ("static", "calibration")),
        (f"{_name}: a NaN in its numbers", lambda cls=_cls, plain=_plain: cls.from_float(
            with_nan(plain(), next(n for n, _ in plain().named_parameters() if "weight" in n)), "w8a8"), FORMAT, ("nan",)),
        (f"{_name}: half input", lambda name=_name: _call(name, Tensor.half), SHAPE, (*_said, "float16", "float32")),
        (f"{_name}: a list", lambda name=_name: _call(name, Tensor.tolist), SHAPE, (*_said, "list")),
        (f"{_name}: one dimension", lambda name=_name: _call(name, lambda x: x.flatten()[:1]), SHAPE, (*_said,)),
        (f"{_name}: meta", lambda name=_name: _call(name, lambda x: x.to("meta")), SHAPE, (*_said, "meta")),
        (f"{_name}: calibration with a number", lambda cls=_cls, plain=_plain: cls.from_float(plain(), "w8a8", 3), SHAPE, (_name, "int")),
        (f"{_name}: calibration with texts", lambda cls=_cls, plain=_plain: cls.from_float(plain(), "w8a8", ["a"]), rt.RtaccelError, (_name, "str")),
        (f"{_name}: calibration that raises", lambda cls=_cls, plain=_plain: cls.from_float(
            plain(), "w8a8", (1 / 0 for _ in range(3))), FORMAT, (_name, "ZeroDivisionError")),
        (f"{_name}: no calibration batch", lambda cls=_cls, plain=_plain: cls.from_float(plain(), "w8a8", []), FORMAT, ("calibration",)),
        (f"{_name}: unused keyword of a state", lambda name=_name: _made(name).load_state_dict({
            **_made(name).state_dict(), "_extra_state": words(b"{}")}), FORMAT, ("description",)),
    ]  # fmt: skip

MODULES += [
    ("QuantLinear: calibration of another width", lambda: rt.nn.QuantLinear.from_float(nn.Linear(12, 5), "w8a8", rows(3, 11)), FORMAT, ("[..., 12]",)),
    ("QuantLinear: no features", lambda: rt.nn.QuantLinear(0, 5), UNSUPPORTED, ("[5, 0]",)),
    ("QuantLinear: weight read", lambda: linear().weight, NoFloatWeight, ("weight read", "restore_")),
    ("QuantLinear: weight set", lambda: setattr(linear(), "weight", rows(5, 12)), NoFloatWeight, ("weight", "state_dict")),
    ("QuantLinear: weight in functional_call", lambda: torch.func.functional_call(linear(), {"weight": rows(5, 12)}, (rows(),)),
     NoFloatWeight, ("weight",)),
    ("a swapped model: weight in functional_call", lambda: torch.func.functional_call(swapped(), {"0.weight": rows(16, 12)}, (rows(),)),
     NoFloatWeight, ("weight",)),
    ("SparseLinear: another mask", lambda: rt.nn.SparseLinear.from_float(nn.Linear(12, 5), mask=torch.ones(5, 11, dtype=torch.bool)), FORMAT, ("mask",)),
    ("SparseLinear: a mask of numbers", lambda: rt.nn.SparseLinear.from_float(nn.Linear(12, 5), mask=[1, 0]), FORMAT, ("mask", "list")),
    ("SparseLinear: unknown pattern", lambda: rt.nn.SparseLinear.from_float(nn.Linear(12, 5), sparsity="half"), FORMAT, ("'half'",)),
    ("QuantConv1d: circular padding", lambda: rt.nn.QuantConv1d.from_float(nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular")),
     UNSUPPORTED, ("circular",)),
    ("QuantConv1d: shorter than its kernel", lambda: rt.nn.QuantConv1d.from_float(nn.Conv1d(4, 4, 3), "w8a8")(rows(2, 4, 2)), SHAPE, ("[2]", "[3]")),
    ("QuantLSTM: projections", lambda: rt.nn.QuantLSTM.from_float(nn.LSTM(4, 6, proj_size=3), "w8a8"), UNSUPPORTED, ("proj_size",)),
    ("QuantLSTM: one state", lambda: rt.nn.QuantLSTM.from_float(nn.LSTM(4, 6), "w8a8")(rows(3, 2, 4), rows(1, 2, 6)), SHAPE, ("(h0, c0)",)),
    ("QuantGRU: a state of another batch", lambda: rt.nn.QuantGRU.from_float(nn.GRU(4, 6), "w8a8")(rows(3, 2, 4), rows(1, 3, 6)), SHAPE, ("[1, 2, 6]",)),
    ("QuantGRU: no time step", lambda: rt.nn.QuantGRU.from_float(nn.GRU(4, 6), "w8a8")(rows(0, 2, 4)), SHAPE, ("at least one time step",)),
    ("QuantEmbedding: index too large", lambda: rt.nn.QuantEmbedding.from_float(nn.Embedding(5, 3))(torch.tensor([5])), FORMAT, ("5",)),
    ("QuantEmbedding: negative index", lambda: rt.nn.QuantEmbedding.from_float(nn.Embedding(5, 3))(torch.tensor([-1])), FORMAT, ("-1",)),
    ("QuantEmbedding: float index", lambda: rt.nn.QuantEmbedding.from_float(nn.Embedding(5, 3))(torch.ones(2)), SHAPE, ("float32", "long")),
    ("QuantEmbedding: max_norm", lambda: rt.nn.QuantEmbedding.from_float(nn.Embedding(5, 3, max_norm=1.0)), UNSUPPORTED, ("max_norm",)),
    ("QuantMultiheadAttention: three heads of 8", lambda: rt.nn.QuantMultiheadAttention(8, 3), UNSUPPORTED, ("3 heads",)),
    ("QuantMultiheadAttention: added keys", lambda: rt.nn.QuantMultiheadAttention.from_float(nn.MultiheadAttention(8, 2, add_zero_attn=True)),
     UNSUPPORTED, ("add_zero_attn",)),
    ("QuantMultiheadAttention: causal without a mask", lambda: _made("QuantMultiheadAttention")(*[rows(3, 2, 12)] * 3, is_causal=True), FORMAT,
     ("is_causal",)),
    ("QuantMultiheadAttention: a mask of integers", lambda: _made("QuantMultiheadAttention")(*[rows(3, 2, 12)] * 3,
                                                                                             attn_mask=torch.ones(3, 3, dtype=torch.int64)),
     FORMAT, ("attn_mask",)),
]  # fmt: skip

CASES: list[Case] = [*MODELS, *MODES, *SCHEMES, *OPTIONS, *CALIBRATION, *STATES, *MODULES]

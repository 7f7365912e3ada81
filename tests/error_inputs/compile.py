"""What nobody should pass to `compile` and `stream`, with the error that says so; calls.py has what they return.

(name, call, type of the error, words that its text has to hold, as a regular expression)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from tests.error_inputs.calls import CASES as CALLS
from tests.error_inputs.models import X, fast, mlp
from tests.error_inputs.whole_models import CASES as WHOLE

Case = tuple[str, Callable[[], Any], type[rt.RtaccelError], str]

CASES: list[Case] = [*CALLS, *WHOLE]


def add(name: str, call: Callable[[], Any], error: type[rt.RtaccelError], words: str) -> None:
    CASES.append((name, call, error, words))


# -- compile: models and examples -------------------------------------------------------------------------------------

M = rt.UnsupportedProblem
for name, model, words in (
    ("a function", lambda x: x, "function|Module"), ("a class", nn.Linear, "type|Module"), ("None", None, "NoneType|Module"),
    ("a text", "model.pt", "str|Module"), ("a state dict", {"weight": X}, "dict|Module"), ("a tensor", X, "Tensor|Module"),
    ("a list of layers", [nn.Linear(12, 5)], "list|Module"),
):  # fmt: skip
    add(f"compile {name}", lambda model=model: rt.compile(model, (X,)), M, words)
    add(f"stream {name}", lambda model=model: rt.stream(model, X), M, words)
add("compile in train mode", lambda: rt.compile(mlp().train(), (X,)), M, r"training mode.*eval")
add("stream in train mode", lambda: rt.stream(nn.GRU(12, 4, batch_first=True), X), M, r"training mode.*eval")


def _part_in_train_mode() -> Any:
    model = nn.Sequential(nn.Linear(12, 5), nn.Dropout(0.5)).eval()
    model[1].train()
    return rt.compile(model, (X,))


add("compile with a submodule in train mode", _part_in_train_mode, M, r"(?s)1.*train")


def _called_functionally() -> Any:
    model = fast()
    return torch.func.functional_call(model, {k: v * 2 for k, v in model.named_buffers()}, (X,))


add("functional_call with other weights", _called_functionally, M, "functional_call")
for name, example, words in (
    ("None", None, "NoneType"), ("a text", "x", "str"), ("a number", 3, "int"), ("a set", {1}, "set"),
    ("a generator", (x for x in [X]), "generator"), ("a function", len, "builtin|function"),
):  # fmt: skip
    add(f"example is {name}", lambda example=example: rt.compile(mlp(), example), rt.ShapeError, f"{words}.*tuple")
NOT_DENSE: dict[str, Callable[[Any], Any]] = {
    "meta": lambda x: x.to("meta"), "sparse": lambda x: x.to_sparse(), "csr": lambda x: x.to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(), "nested": lambda x: torch.nested.nested_tensor([*x]),
}  # fmt: skip
for name, turn in NOT_DENSE.items():
    add(f"example is {name}", lambda t=turn: rt.compile(mlp(), t(X)), rt.ShapeError, "in the example.*dense tensors")
    add(f"example of a stream is {name}", lambda t=turn: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), t(X)),
        rt.ShapeError, "in the example.*dense tensors")  # fmt: skip
    add(
        f"calibration is {name}",
        lambda t=turn: rt.compile(mlp(), X, "w8a8", calibration=[t(X)]),
        rt.ShapeError,
        "calibration",
    )
for name, layer in (
    ("a lazy layer", nn.LazyLinear(5)),
    ("weights on the meta device", nn.Linear(12, 5, device="meta")),
):
    for way, do in {
        "compile": lambda m: rt.compile(m, X), "stream": lambda m: rt.stream(m, X),
        "quantize_": lambda m: rt.quantize_(m, rt.W8A8("dynamic")), "sparsify_": lambda m: rt.sparsify_(m, "2:4"),
    }.items():  # fmt: skip
        if way.endswith("_") and name != "a lazy layer":
            continue  # these keep such a layer, with the reason in their report
        add(f"{way} of {name}", lambda do=do, m=layer: do(nn.Sequential(m).eval()), M, r"0\.weight.*(once|to_empty)")
add(
    "examples beside each other",
    lambda: rt.compile(mlp(), X, X),  # type: ignore[arg-type]
    rt.FormatError,
    r"a tensor as the scheme.*one tuple.*\(x, mask\)",
)
add(
    "example is a dict of other names",
    lambda: rt.compile(mlp(), {"other": X}),
    rt.ShapeError,
    "by name.*other.*forward: input",
)
for name, example in (("None", None), ("a text", "x"), ("two tensors", (X, X)), ("empty", ()), ("a list of numbers", [1.0]),
                      ("an image", torch.randn(2, 3, 4, 12)), ("no stream", torch.randn(0, 12)), ("float64", X.double()),
                      ("a scalar", torch.tensor(1.0)),
                      ("float32 of rank 1", torch.randn(12)), ("int32", torch.zeros(2, dtype=torch.int32)),
                      ("bool", torch.zeros(2, dtype=torch.bool)), ("half", X.half())):  # fmt: skip
    add(
        f"example of a stream is {name}",
        lambda e=example: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), e),
        rt.ShapeError,
        "stream|compile",
    )

add(
    "example of a stream is of whole numbers, which the layer does not take",
    lambda: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), torch.zeros(2, 12, dtype=torch.int64)),
    rt.UnsupportedProblem,
    "stream.*int64",
)

# -- compile: options -------------------------------------------------------------------------------------------------

for scheme in ("int8", "", "W9", "w8a8 ", "fp32", "float64"):
    add(f"scheme {scheme!r}", lambda s=scheme: rt.compile(mlp(), (X,), s), rt.FormatError, r"one of.*w8a8")
for name, scheme in (
    ("8", 8),
    ("None", None),
    ("a class", rt.W8A8),
    ("a dtype", torch.int8),
    ("a list", ["w8a8"]),
    ("True", True),
):
    add(f"scheme is {name}", lambda s=scheme: rt.compile(mlp(), (X,), s), rt.FormatError, "scheme.*one of|name")
for name, schemes in (("an unknown name", {"*": "int8"}), ("a number as pattern", {0: "w8a8"}),
    ("None as pattern", {None: "w8a8"}),
                      ("a number as scheme", {"*": 8}), ("a class as scheme", {"*": rt.W8A8})):  # fmt: skip
    add(f"schemes with {name}", lambda s=schemes: rt.compile(mlp(), (X,), s), rt.FormatError, "scheme|pattern")
for name, make in (
    ("an unknown activation", lambda: rt.W8A8("sometimes")), ("activation as a number", lambda: rt.W8A8(1)),
    ("an unknown observer", lambda: rt.W8A8(observer="median")), ("activation of W4A8", lambda: rt.W4A8(activation="x")),
):  # fmt: skip
    add(f"W8A8 of {name}", make, rt.FormatError, "static|absmax")
for size in (0, -16, 15, 17, 8, 512, 32.0, "32", None, True):
    add(f"group_size {size!r}", lambda s=size: rt.W4A16(group_size=s), rt.FormatError, r"group_size=.*multiple of 16")
    add(
        f"group_size {size!r} of W4A8",
        lambda s=size: rt.W4A8(group_size=s),
        rt.FormatError,
        r"group_size=.*multiple of 16",
    )
add("static without calibration", lambda: rt.compile(mlp(), (X,), rt.W8A8("static")), rt.FormatError, "calibration")
add("static stream without calibration", lambda: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), X, rt.W8A8("static")),
    rt.FormatError, "calibration")  # fmt: skip
for value in (0, -1, 1.5, "8", True):
    add(f"max_batch {value!r}", lambda v=value: rt.compile(mlp(), (X,), max_batch=v), rt.ShapeError, "max_batch")
for value in (0, -1, 1.5, "2", True, 10**6, None):
    add(f"threads {value!r}", lambda v=value: rt.compile(mlp(), (X,), threads=v), M, "threads=")
    add(
        f"threads {value!r} of a stream",
        lambda v=value: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), X, threads=v),
        M,
        "threads=",
    )
for value in ("gpu", "CPU", "cuda:0x", "", None, 0, "meta"):
    add(f"device {value!r}", lambda v=value: rt.compile(mlp(), (X,), device=v), rt.BackendUnavailable, r"device.*cpu")
for value in ("avx512", "CPU", "", "onnx", 1, True):
    add(
        f"backend {value!r}",
        lambda v=value: rt.compile(mlp(), (X,), backend=v),
        rt.BackendUnavailable,
        r"(?i)backend|available|one of",
    )
for value in ("graph", "eager", "persistent", "fast", "", 1):
    add(f"mode {value!r} on a CPU", lambda v=value: rt.compile(mlp(), (X,), mode=v), M, "mode=")
if not torch.cuda.is_available():
    add("device cuda without a GPU", lambda: rt.compile(mlp(), (X,), device="cuda"), rt.BackendUnavailable, "GPU")
    add("stream on cuda without a GPU", lambda: rt.stream(nn.GRU(12, 4, batch_first=True).eval(), X[:1], device="cuda"),
        rt.BackendUnavailable, "GPU")  # fmt: skip
for value in ("3:4", "sparse", 0.9, 1, True, rt.Unstructured, {"*": 0.5}):
    add(
        f"sparsity {value!r}",
        lambda v=value: rt.compile(mlp(), (X,), sparsity=v),
        rt.FormatError,
        "sparsity|one of|pattern",
    )
for value in (-0.1, 1.5, math.nan, "0.9"):
    add(f"Unstructured({value!r})", lambda v=value: rt.Unstructured(v), rt.FormatError, "sparsity")

# -- calibration ------------------------------------------------------------------------------------------------------

CALIBRATIONS: dict[str, Callable[[], Any]] = {
    "of another width": lambda: [torch.randn(8, 13)],
    "of rank 1": lambda: [torch.randn(12)],
    "of rank 3": lambda: [torch.randn(2, 2, 13)],
    "in float64": lambda: [torch.randn(8, 12).double()],
    "in float16": lambda: [torch.randn(8, 12).half()],
    "in int64": lambda: [torch.zeros(8, 12, dtype=torch.int64)],
    "on meta": lambda: [torch.randn(8, 12, device="meta")],
    "sparse": lambda: [torch.randn(8, 12).to_sparse()],
    "of numbers": lambda: [1.0, 2.0],
    "of texts": lambda: ["a"],
    "of None": lambda: [None],
    "a number": lambda: 3,
    "a text": lambda: "data",
    "a dict": lambda: {"x": X},
    "a function": lambda: len,
    "True": lambda: True,
}
for name, make in CALIBRATIONS.items():
    add(
        f"calibration {name}",
        lambda make=make: rt.compile(mlp(), (X,), "w8a8", calibration=make()),
        rt.ShapeError,
        "calibration|batch|input",
    )
for name, make, words in (
    ("of pairs with labels", lambda: [(torch.randn(8, 12), torch.zeros(8))], r"2 tensors.*takes 1"),
    ("of triples", lambda: [(X, X, X)], r"3 tensors.*takes 1"),
    ("of empty tuples", lambda: [()], "0 tensors|takes 1"),
):  # fmt: skip
    add(
        f"calibration {name}",
        lambda make=make: rt.compile(mlp(), (X,), "w8a8", calibration=make()),
        rt.ShapeError,
        words,
    )
for name, make, words in (
    ("without batches", list, "calibration|no data|nothing"),
    ("of empty batches", lambda: [torch.randn(0, 12)], "calibration|no|nothing"),
    ("with a NaN", lambda: [torch.full((8, 12), math.nan)], "NaN|finite"),
    ("with an infinity", lambda: [torch.full((8, 12), math.inf)], "inf|finite"),
):  # fmt: skip
    add(
        f"calibration {name}",
        lambda make=make: rt.compile(mlp(), (X,), "w8a8", calibration=make()),
        rt.FormatError,
        words,
    )

# -- weights that are no numbers --------------------------------------------------------------------------------------


def _with_weight(value: float, scheme: str) -> Any:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = value
    return rt.compile(model, (X,), scheme, calibration=[torch.randn(8, 12)] if scheme == "w8a8" else None)


for value in (math.nan, math.inf, -math.inf):
    for scheme in ("w8a8", "w8a16", "w4a16", "w4a8"):
        add(
            f"a weight of {value} in {scheme}",
            lambda v=value, s=scheme: _with_weight(v, s),
            rt.FormatError,
            "NaN|inf|finite",
        )

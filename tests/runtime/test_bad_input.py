"""Bad input to a compiled model: one typed error that says what is wrong, or the right result; never anything else."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import RtaccelError
from tests.support.processes.run import PYTHON


def make(scheme="w8a8", **options) -> rt.CompiledModel:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7)).eval()
    return rt.compile(model, (torch.randn(2, 24),), scheme, calibration=[torch.randn(64, 24)], **options)


SCHEMES = ["float32", "w8a8", rt.W8A8("dynamic")]


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def fast(request) -> rt.CompiledModel:
    return make(request.param)


WRONG = {
    "width": (lambda: torch.randn(2, 23), r"\[2, 23\].*24"),
    "rank 1": (lambda: torch.randn(24), "1 dimensions"),
    "rank 3": (lambda: torch.randn(2, 2, 24), "3 dimensions"),
    "scalar": (lambda: torch.tensor(1.0), "0 dimensions"),
    "float64": (lambda: torch.randn(2, 24).double(), "float64"),
    "float16": (lambda: torch.randn(2, 24).half(), "float16"),
    "int64": (lambda: torch.zeros(2, 24, dtype=torch.int64), "int64"),
    "device": (lambda: torch.randn(2, 24, device="meta"), "meta"),
    "sparse": (lambda: torch.randn(2, 24).to_sparse(), "float32"),
    "list": (lambda: [1.0], "Nest them|list|torch tensor"),
    "none": (lambda: None, "NoneType"),
    "string": (lambda: "x", "str"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("how", ["call", "run", "bind"])
def test_wrong_input(fast, name: str, how: str) -> None:
    make_input, said = WRONG[name]
    out = torch.full((2, 7), 5.0)
    bad = make_input()
    with pytest.raises(rt.ShapeError, match=said) as caught:
        fast(bad) if how == "call" else getattr(fast, how)(bad, out=out)
    assert caught.value.next_step
    assert (out == 5.0).all()
    assert fast(torch.randn(2, 24)).shape == (2, 7)  # still works


CONVERTIBLE = {
    **{
        str(t): (lambda x, t=t: x.to(t))
        for t in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64)
    },
    **{f"to_{name}": (lambda x, name=name: getattr(x, f"to_{name}")()) for name in ("sparse", "sparse_csr", "mkldnn")},
    "to_sparse_bsr": lambda x: x.to_sparse_bsr((1, 1)),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize_per_tensor", "ignore:Casting complex")
@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_next_step_is_right(fast, name: str) -> None:
    """What the error says to do is done, and the call then works."""
    bad = CONVERTIBLE[name](torch.randn(2, 24))
    with pytest.raises(rt.ShapeError, match="Convert it with") as caught:
        fast(bad)
    step = re.search(r"Convert it with (\.\w+\(.*\))\.", caught.value.next_step)
    assert step is not None, caught.value.next_step
    assert fast(eval(f"bad{step[1]}", {"bad": bad, "torch": torch})).shape == (2, 7)


def test_a_compiled_model_within_another() -> None:
    """It answers right, and the warning says what to compile."""
    whole = nn.Sequential(make("float32"), nn.Linear(7, 3)).eval()
    x = torch.randn(2, 24)
    with pytest.warns(rt.FallbackWarning, match="Compile the whole model that it is a part of"):
        fast = rt.compile(whole, x)
    torch.testing.assert_close(fast(x), whole(x))
    with pytest.raises(rt.UnsupportedProblem, match="a part of"):
        rt.compile(whole, x, strict=True)
    with pytest.raises(rt.UnsupportedProblem, match="a part of"):
        torch.export.export(whole, (x,))


def test_wrong_count(fast) -> None:
    x = torch.randn(2, 24)
    for inputs in ((), (x, x)):
        with pytest.raises(rt.ShapeError):
            fast(*inputs)
        with pytest.raises(rt.ShapeError):
            fast.run(*inputs, out=torch.empty(2, 7))


@pytest.mark.parametrize("how", ["run", "bind"])
def test_wrong_out(fast, how: str) -> None:
    x = torch.randn(2, 24)
    for out in (torch.zeros(2, 8), torch.zeros(3, 7), torch.zeros(14), torch.zeros(2, 7).double(),
                torch.zeros(2, 7, device="meta"), None, (torch.zeros(2, 7), torch.zeros(2, 7)), "y"):  # fmt: skip
        with pytest.raises(rt.ShapeError, match="out"):
            getattr(fast, how)(x, out=out)
        if isinstance(out, torch.Tensor) and out.device.type == "cpu":
            assert (out == 0).all()


def test_empty_batch(fast) -> None:
    assert fast(torch.empty(0, 24)).shape == (0, 7)
    out = torch.empty(0, 7)
    assert fast.run(torch.empty(0, 24), out=out) is out


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, k = x.shape
    spread = torch.randn(rows, 2 * k)
    spread[:, ::2] = x
    shifted = torch.randn(rows * k + 5)
    shifted[3 : 3 + rows * k] = x.flatten()
    raw = bytearray(rows * k * 4 + 8)
    misaligned = torch.frombuffer(raw, dtype=torch.uint8)
    start = 1 if misaligned.data_ptr() % 4 == 0 else 2
    misaligned[start : start + rows * k * 4] = x.contiguous().view(torch.uint8).flatten()
    odd = torch.frombuffer(raw, dtype=torch.float32, count=rows * k, offset=start).view(rows, k)
    assert odd.data_ptr() % 4
    return {
        "transposed": x.T.contiguous().T,
        "step": spread[:, ::2],
        "offset": shifted[3 : 3 + rows * k].view(rows, k),
        "imaginary part of a conjugate": torch.complex(torch.zeros_like(x), -x).conj().imag,
        "needs grad": x.clone().requires_grad_(),
        "parameter": nn.Parameter(x.clone()),
        "misaligned": odd,
        "rows of a larger one": torch.cat([x, x])[:rows],
        "flipped twice": x.flip(0).flip(0),
        "stride of a size-1 dimension": x[:1].as_strided((1, k), (999, 1)),
    }


def test_layouts_give_the_same_result(fast) -> None:
    x = torch.randn(5, 24)
    want = fast(x)
    for name, view in layouts(x).items():
        got = fast(view)
        # float32 sums of one row and of several may be in another order: compare like with like.
        assert torch.equal(got, want if got.shape[0] == 5 else fast(x[:1])), name
        assert not got.requires_grad
        out = torch.full_like(got, 9.0)
        fast.run(view, out=out)
        assert torch.equal(out, got), name
    row = torch.randn(1, 24)
    assert torch.equal(fast(row.expand(5, 24)), fast(row.repeat(5, 1)))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_negated_single_element(scheme) -> None:
    fast = rt.compile(nn.Linear(1, 1).eval(), (torch.ones(1, 1),), scheme, calibration=[torch.randn(99, 1)])
    x = torch.full((1, 1), 0.7)
    assert torch.equal(fast(torch.complex(x, -x).conj().imag), fast(x))


def test_out_may_be_strided_or_overlap(fast) -> None:
    x = torch.randn(4, 24)
    want = fast(x)
    wide = torch.zeros(4, 14)
    fast.run(x, out=wide[:, ::2])
    assert torch.equal(wide[:, ::2], want)
    assert (wide[:, 1::2] == 0).all()
    shared = torch.randn(4 * 24)
    x2 = shared.view(4, 24)
    want = fast(x2)
    overlapping = shared[10 : 10 + 28].view(4, 7)
    fast.run(x2, out=overlapping)
    assert torch.equal(overlapping, want)
    with pytest.raises(rt.ShapeError, match="overlap"):
        fast.bind(x2, out=overlapping)
    with pytest.raises(rt.ShapeError, match="strided"):
        fast.bind(x, out=wide[:, ::2])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("backend", ["cpu", "portable"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_bad_row_corrupts_only_itself(value: float, backend: str, scheme) -> None:
    fast = make(scheme, backend=backend)
    x = torch.randn(40, 24)
    want = fast(x)
    for row in (0, 17, 39):
        with_nan = x.clone()
        with_nan[row, 5] = value
        got = fast(with_nan)
        others = torch.arange(40) != row
        assert torch.equal(got[others], want[others])
        if scheme != "float32":
            assert got[row].isnan().all()
        else:
            assert not got[row].isfinite().all() or value < 0
    assert torch.equal(fast(x), want)  # nothing of it is left behind


def test_huge_and_tiny_values_saturate(fast) -> None:
    x = torch.zeros(3, 24)
    x[0], x[1], x[2] = 1e30, -1e30, 1e-40
    y = fast(x)
    assert y[2].isfinite().all()
    assert not y.isnan().any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(bad: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        model[1].weight[2, 3] = bad
    with pytest.raises(rt.FormatError, match=r"1.*weight\[2, 3\]"):
        rt.compile(model, (torch.randn(1, 4),), rt.W8A8("dynamic"))


def test_bad_calibration() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(1, 4)
    for calibration, said in (
        ([], "no value"),
        ([torch.full((1, 4), float("nan"))], "NaN"),
        (3, "int"),
        (["a"], "str"),
    ):
        with pytest.raises(rt.RtaccelError, match=said):
            rt.compile(model, (x,), rt.W8A8("static"), calibration=calibration)
    constant = rt.compile(model, (x,), "w8a8", calibration=[torch.zeros(3, 4)])
    assert constant(torch.zeros(2, 4)).isfinite().all()


def test_options_that_are_not_there() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(1, 4)
    for options, error, said in (
        ({"scheme": "w3a5"}, rt.FormatError, "float32.*w8a8"),
        ({"scheme": 7}, rt.FormatError, "7"),
        ({"backend": "tpu"}, rt.BackendUnavailable, "cpu.*portable"),
        ({"device": "cuda"}, rt.BackendUnavailable, "GPU"),
        ({"device": "toaster"}, rt.BackendUnavailable, "toaster"),
        ({"sparsity": "3:4"}, rt.FormatError, "3:4.*unstructured"),
        ({"mode": "persistent"}, rt.UnsupportedProblem, "persistent"),
        ({"max_batch": 0}, rt.ShapeError, "max_batch"),
    ):
        if options == {"device": "cuda"} and torch.cuda.is_available():
            continue
        with pytest.raises(error, match=said):
            rt.compile(model, (x,), **options)
    with pytest.raises(rt.UnsupportedProblem, match="eval"):
        rt.compile(nn.Linear(4, 4), (x,))
    with pytest.raises(rt.ShapeError, match="tuple"):
        rt.compile(model, 3)


def test_max_batch_is_held() -> None:
    fast = make(max_batch=4)
    assert fast(torch.randn(4, 24)).shape == (4, 7)
    with pytest.raises(rt.ShapeError, match="max_batch=4"):
        fast(torch.randn(5, 24))


def test_a_sealed_model_does_not_copy() -> None:
    fast = make().seal()
    x, out = torch.randn(2, 24), torch.empty(2, 7)
    fast.run(x, out=out)
    step = fast.bind(x, out=out)
    step()
    assert torch.equal(fast(x), out)
    with pytest.raises(rt.ShapeError, match="sealed"):
        fast.run(torch.randn(2, 48)[:, ::2], out=out)


def test_bound_reads_and_writes_its_memory(fast) -> None:
    x, out = torch.randn(3, 24), torch.empty(3, 7)
    step = fast.bind(x, out=out)
    for _ in range(3):
        x.normal_()
        step()
        assert torch.equal(out, fast(x))
    kept = fast.bind(torch.ones(1, 24), out=torch.empty(1, 7))
    del fast
    kept()  # its tensors and its plan live as long as it does


def test_unknown_isa_is_named(tmp_path) -> None:
    import os
    import subprocess

    code = "import rtaccel as rt, torch; rt.compile(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),), backend='cpu')"
    env = {**os.environ, "RTACCEL_CPU_ISA": "sse9"}
    done = subprocess.run([*PYTHON, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BackendUnavailable" in done.stderr and "sse9" in done.stderr and "avx2" in done.stderr


def test_freed_storage_is_named(fast) -> None:
    x = torch.randn(2, 24)
    fast(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(rt.ShapeError, match="storage"):
        fast(x)


def test_under_functionalize(fast) -> None:
    x = torch.randn(2, 24)
    want = fast(x)
    with pytest.raises(rt.RtaccelError):
        torch.func.functionalize(fast)(x)
    assert torch.equal(fast(x), want)


def test_errors_of_streams_name_the_stream() -> None:
    """Also those of compiling inside of it."""
    model = nn.GRU(8, 16, batch_first=True).eval()
    for options in ({"device": "nowhere"}, {"mode": "graph"}, {"threads": -1}, {"scheme": "w9a9"}):
        with pytest.raises(RtaccelError) as error:
            rt.stream(model, torch.randn(2, 8), **options)  # type: ignore[arg-type]
        assert error.value.op != "compile" and not str(error.value).startswith("compile:")
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)

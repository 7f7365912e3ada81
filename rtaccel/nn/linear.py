"""`QuantLinear`: nn.Linear with quantized weights, and int8 activations where its scheme says so, in one native call."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.compiler import is_dynamo_compiling

from rtaccel.backends import _interop as interop
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.scheme import W8A8, Int8Activation, Scheme, parse_scheme
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn import ops
from rtaccel.nn.arrays import batches_of
from rtaccel.nn.check import check_input, describe, is_plain
from rtaccel.nn.packed import Packed
from rtaccel.nn.params.formats import params_of, refuse_rounding
from rtaccel.nn.params.linear import LinearParams
from rtaccel.nn.stored import Stored, scheme_words
from rtaccel.plan.explain import line, table

_lock = threading.RLock()


def _unpacked(inputs: tuple[Tensor]) -> Tensor | None:
    """Stands where the plan's call will be, until there is one."""
    return None


class _Buffers(dict[str, "Tensor | None"]):
    """The buffers of a module; a buffer that becomes another tensor, however that is done, makes its plan stale."""

    def __init__(self, owner: QuantLinear, content: dict[str, Tensor | None]) -> None:
        super().__init__(content)
        self._owner = weakref.ref(owner)

    def __setitem__(self, name: str, tensor: Tensor | None) -> None:
        same = self.get(name) is tensor
        super().__setitem__(name, tensor)
        owner = self._owner()
        if owner is not None and not same:
            owner._forget()


class QuantLinear(Stored):
    """y = x W^T + bias with quantized weights: takes the place of an nn.Linear, for inference.

    x float32 [..., K], y float32 [..., N], K = in_features, N = out_features. With the scheme W8A8

        q = clamp(rint(x / input_scale) + input_zero_point, -128, 127)              static
        q = rint(x / row_scale),  row_scale[m] = max_k |x[m, k]| / 127               dynamic, input_zero_point 0
        y[m, n] = (sum_k (q[m, k] - input_zero_point) * weight[n, k]) * scale * weight_scale[n] + bias[n]

    with exact int32 sums (contracts of `quantize` and `linear`). Buffers are plain tensors: qweight int8 [N, K],
    weight_scale float32 [N], bias float32 [N] or None; static: input_scale float32 [], input_zero_point int32 [].

    The schemes BFloat16 and W8A16 take x as it is, W4A16 too, with int4 weights in groups along K; W4A8 is W8A8 with
    such weights. Their buffers are those of rtaccel.nn.params.linear_a16 and linear_int4, their sums those of the contract
    kernels/linear/contract_weights.py.

    An x that is an array of CuPy's gives one back, without a copy and on CuPy's current stream; so do the other layers here.
    A row with a NaN or an infinity gives NaN in that row; other rows are not touched. A strided, expanded or
    misaligned x is copied first. y never requires grad. `.half()`, `.double()` and the like leave the layer as it is
    (its scales stay float32); moves between devices work. Loading, moving or replacing a buffer packs the plan again;
    after changing one in place (`layer.bias.add_(1)`), call `repack()`.

    Under torch.compile, torch.export, torch.jit.trace, torch.func and fake tensors it is the op
    `torch.ops.rtaccel.linear_<scheme>`.
    A TorchDispatchMode that is handed real tensors (make_fx(tracing_mode="real")) does not see the native call.

    bias: whether the layer has one.
    scheme: a scheme or its name; W8A8() without activation means dynamic here.

    The layer made is all zeros, to be loaded into; `from_float` makes one from an nn.Linear.

    Raises ShapeError for an x of wrong type, device, dtype, rank or width; UnsupportedProblem for sizes or schemes
    without a kernel; FormatError for parameters that are not valid.

    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.QuantLinear.from_float(torch.nn.Linear(16, 4), rt.W8A8(), calibration=torch.randn(64, 16))
        >>> layer(torch.randn(2, 16)).shape
        torch.Size([2, 4])
    """

    STORED: ClassVar[str] = "qweight"
    """The buffer of the weight, a name that nn.Linear has not."""

    weight_scale: Tensor
    group_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    _call: Callable[[tuple[Tensor]], Tensor | None]
    _packed: Packed | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scheme: Scheme | str | None = None,
        *,
        device: Any = None,
    ) -> None:
        scheme = W8A8() if scheme is None else parse_scheme(scheme)
        refuse_rounding("QuantLinear", scheme)
        params = params_of("QuantLinear", scheme)
        size = params.size_of(out_features, in_features, scheme)
        size.check("QuantLinear")
        static = isinstance(scheme, Int8Activation) and scheme.activation == "static"
        self._set_up(params.empty(size, bias, static, device), scheme)

    def _set_up(self, params: LinearParams, scheme: Scheme) -> None:
        super().__init__()
        self.out_features, self.in_features = params.size.n, params.size.k
        if isinstance(scheme, Int8Activation):
            static = getattr(params, "input_scale", None) is not None
            scheme = replace(scheme, activation="static" if static else "dynamic")  # type: ignore[call-arg]
        self.scheme = scheme
        self._original: nn.Linear | None = None
        self._swapped = False
        self.__dict__["_buffers"] = _Buffers(self, {})
        for name, tensor in params.items():
            self.register_buffer(self.STORED if name == "weight" else name, tensor)
        self._forget()

    @classmethod
    def from_float(
        cls,
        module: nn.Linear,
        scheme: Scheme | str = W8A8(),  # noqa: B008
        calibration: Tensor | Iterable[Tensor] | RangeObserver | None = None,
    ) -> QuantLinear:
        """A quantized copy of an nn.Linear, on its device; the module itself is not changed.

        module: weight float32 [N, K], bias float32 [N] or None.
        calibration: inputs of this layer, float32 [..., K] (a tensor, an iterable of tensors, or an observer that has seen
            them), for the static range.

        A scheme whose activation is None is static with calibration and dynamic without; a dynamic
        one does not read it. Raises FormatError for weights or inputs that are not finite, for a static scheme without
        calibration and for calibration without values; UnsupportedProblem for a module that is not a float32 nn.Linear.
        """
        if not isinstance(module, nn.Linear) or module.weight.dtype != torch.float32:
            got = f"{type(module).__name__}" + (f" of {module.weight.dtype}" if isinstance(module, nn.Linear) else "")
            raise UnsupportedProblem(cls.__name__, got, "a float32 nn.Linear", "Convert the model with .float() first.")
        scheme = parse_scheme(scheme)
        refuse_rounding(cls.__name__, scheme)
        params = params_of(cls.__name__, scheme)
        size = params.size_of(module.out_features, module.in_features, scheme)
        size.check(cls.__name__)
        quant = None
        with torch.device("cpu"), torch.no_grad():  # whatever torch's default device is
            if isinstance(scheme, Int8Activation):
                if scheme.activation != "dynamic" and calibration is not None:
                    quant = params.range_of(scheme, _observed(cls.__name__, calibration, module.in_features))
                elif scheme.activation == "static":
                    name = type(scheme).__name__
                    raise FormatError(
                        cls.__name__, f"{name}(activation='static') without calibration", "inputs of this layer",
                        f"Pass calibration=, or take {name}(activation='dynamic').",
                    )  # fmt: skip
            made = cls.__new__(cls)
            made._set_up(params.quantize(cls.__name__, module.weight, module.bias, quant, size), scheme)
        return made.train(module.training)

    # -- calling ---------------------------------------------------------------------------------------------------

    def forward(self, input: Tensor) -> Tensor:
        if is_dynamo_compiling():
            return self._as_op(input)
        result = self._call((input,))
        return result if result is not None else self._closer(input)

    def _as_op(self, input: Any) -> Tensor:
        cls = params_of("QuantLinear", self.scheme)
        return ops.OPERATORS[cls](input, *self._buffers.values(), *self._options(cls).values())

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """torch.jit.trace comes here instead of to `forward`; a native call would leave no trace."""
        return self._as_op(*args, **kwargs)

    def _closer(self, input: Any) -> Any:
        """No plan yet, another rank than last time, an unusual tensor, an array of CuPy's, or a mistake."""
        if isinstance(input, fx.Proxy):
            return self._as_op(input)
        if not isinstance(input, Tensor) and (cupy := interop.cupy_of(input)) is not None:
            return interop.call(cupy, self, (input,))
        check_input(type(self).__name__, input, self.in_features, self.device)
        if not all(is_plain(t) for t in (input, *self._buffers.values()) if t is not None):
            return self._as_op(input)
        with _lock:
            packed = self._pack()
            result = packed.compute(input)
            if input.dim() in packed.ranks:
                self.__dict__["_call"] = packed.plan(input.dim()).call
        return result

    # -- packing ---------------------------------------------------------------------------------------------------

    def _options(self, cls: type[LinearParams]) -> dict[str, int]:
        size = cls.size_of(self.out_features, self.in_features, self.scheme)
        return {name: size.k if name == "in_features" else getattr(size, name) for name in cls.OPTIONS}

    def _params(self) -> LinearParams:
        cls = params_of("QuantLinear", self.scheme)
        return cls(**self._fields(), **self._options(cls))

    def _fields(self) -> dict[str, Any]:
        """The buffers by the names that the numbers have for them."""
        return {"weight" if name == self.STORED else name: t for name, t in self._buffers.items()}

    @property
    def device(self) -> torch.device:
        weight = self._buffers[self.STORED]
        assert weight is not None
        return weight.device

    def _pack(self) -> Packed:
        with _lock:
            if self._packed is None:
                self.__dict__["_packed"] = Packed(type(self).__name__, self._params())
            packed = self._packed
            assert packed is not None
            return packed

    def _forget(self) -> None:
        with _lock:
            self.__dict__["_packed"] = None
            self.__dict__["_call"] = _unpacked

    def repack(self) -> None:
        """Packs the plan anew from the buffers; needed only after one was changed in place.

        Raises FormatError, and keeps the old plan, where they make no layer.
        """
        self._repack(self._ranks())

    def _ranks(self) -> list[int]:
        return self._packed.ranks if self._packed is not None else []

    def _repack(self, ranks: list[int]) -> None:
        with _lock:
            packed = Packed(type(self).__name__, self._params())
            for rank in ranks:
                packed.plan(rank)
            self._forget()
            self.__dict__["_packed"] = packed

    def explain(self) -> str:
        """Both stages: the kernel chosen, those rejected and why, the bytes each must move and what it does."""
        packed = self._pack()
        if not packed.ranks:
            packed.plan(2)
        return table(line(choice) for choice in packed.choices)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, scheme={self.scheme}"
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        sizes = {"in_features": self.in_features, "out_features": self.out_features}
        return {"layer": type(self).__name__, **sizes, **scheme_words(self.scheme), "bias": self.bias is not None}

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        cls = params_of("QuantLinear", self.scheme)
        size = cls.size_of(self.out_features, self.in_features, self.scheme)
        for name in sorted(given):
            cls.check(op, "weight" if name == self.STORED else name, given[name], size, name)

    def take(self, found: dict[str, Tensor], assign: bool) -> None:
        ranks = self._ranks()
        super().take(found, assign)
        if all(is_plain(t) for t in self._buffers.values() if t is not None):
            self._repack(ranks)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_call", "_packed")} | {
            "_buffers": dict(self._buffers)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["_buffers"] = _Buffers(self, state["_buffers"])
        self._forget()


def _observed(op: str, calibration: Any, width: int) -> RangeObserver:
    """The range of a layer's inputs. Raises FormatError for what is not an input of this layer."""
    if isinstance(calibration, RangeObserver):
        return calibration
    observer = RangeObserver(f"the input of {op}")
    for x in batches_of(op, calibration):
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != width:
            raise FormatError(
                op, f"calibration with {describe(x)}", f"float[..., {width}]", "Pass inputs of this layer."
            )
        observer.observe(x)
    return observer

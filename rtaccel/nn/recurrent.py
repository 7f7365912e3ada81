"""`QuantLSTM` and `QuantGRU`: nn.LSTM and nn.GRU with int8 or int4 weights and int8 activations, in one native call."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.compiler import is_dynamo_compiling

from rtaccel.backends import _interop as interop
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import W4A8, W8A8, Int8Activation, Scheme, parse_scheme
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn import recurrent_ops as ops
from rtaccel.nn.arrays import batches_of
from rtaccel.nn.check import describe, is_plain
from rtaccel.nn.params import recurrent as params
from rtaccel.nn.params.formats import refuse_rounding
from rtaccel.nn.stored import Stored, scheme_words
from rtaccel.plan.explain import line, table

_lock = threading.RLock()


class _Recurrent(Stored):
    """What QuantLSTM and QuantGRU share. Subclasses give `kind`, the torch layer, and the shape of states in a call."""

    kind: ClassVar[str]
    torch_layer: ClassVar[type[nn.RNNBase]]
    _op: ClassVar[Callable[..., Any]]
    _state_count: ClassVar[int]
    _packed: params.Packed | None
    _packed_of: tuple[Tensor | None, ...]
    FLOAT = re.compile(r"weight_(ih|hh|hr)_l\d+(_reverse)?|all_weights|_flat_weights")
    h_scale: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        scheme: Scheme | str | None = None,
        *,
        device: Any = None,
    ) -> None:
        chosen = _supported(type(self).__name__, W8A8() if scheme is None else parse_scheme(scheme))
        static, group = chosen.activation == "static", _group_size(chosen)
        sizes = params.Sizes(self.kind, input_size, hidden_size, num_layers, bidirectional, bias, static, group)
        sizes.check(type(self).__name__)
        self._set_up(sizes, batch_first, chosen, params.empty(sizes, device))

    def _set_up(
        self, sizes: params.Sizes, batch_first: bool, scheme: Int8Activation, tensors: dict[str, Tensor]
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.batch_first = batch_first
        self.scheme: Int8Activation = replace(scheme, activation="static" if sizes.static else "dynamic")  # type: ignore[call-arg]
        self._original: nn.RNNBase | None = None
        self._swapped = False
        self._packed, self._packed_of = None, ()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @classmethod
    def from_float(
        cls,
        module: nn.RNNBase,
        scheme: Scheme | str = W8A8(),  # noqa: B008
        calibration: Tensor | Iterable[Tensor] | RangeObserver | None = None,
    ) -> Any:
        """A quantized copy of the torch layer, on its device; the module itself is not changed.

        module: weights float32, weight_ih [gates * H, K] and weight_hh [gates * H, H] of each layer and direction.
        calibration: inputs of this layer, float32 [..., K] (a tensor, an iterable of tensors, or an observer that has seen
            them), for the static range of x.

        A scheme whose activation is None is static with calibration and dynamic without.
        Raises FormatError for weights that are not finite, for a static scheme without calibration and for calibration
        without values; UnsupportedProblem for a layer of another kind or dtype, or one with projections.
        """
        op = cls.__name__
        if not isinstance(module, cls.torch_layer) or module.weight_ih_l0.dtype != torch.float32:
            got = type(module).__name__
            if isinstance(module, nn.RNNBase):
                got += f" of {module.weight_ih_l0.dtype}"
            raise UnsupportedProblem(op, got, f"a float32 nn.{cls.torch_layer.__name__}", "Convert it with .float().")
        if module.proj_size:
            raise UnsupportedProblem(op, f"proj_size = {module.proj_size}", "no projection", "Leave this layer out.")
        chosen = _supported(op, parse_scheme(scheme))
        quant = None
        with torch.device("cpu"), torch.no_grad():  # whatever torch's default device is
            if chosen.activation != "dynamic" and calibration is not None:
                quant = _observed(op, calibration, module.input_size).quant(chosen.observer)
            elif chosen.activation == "static":
                raise FormatError(
                    op, f"{chosen} without calibration", "inputs of this layer",
                    "Pass calibration=, or take activation='dynamic'.",
                )  # fmt: skip
            sizes = params.Sizes(
                cls.kind, module.input_size, module.hidden_size, module.num_layers, module.bidirectional, module.bias,
                quant is not None, _group_size(chosen),
            )  # fmt: skip
            sizes.check(op)
            tensors = params.quantize(op, sizes, dict(module.named_parameters()), quant)
            made = cls.__new__(cls)
            made._set_up(sizes, module.batch_first, chosen, tensors)
        return made.train(module.training)

    # -- calling ---------------------------------------------------------------------------------------------------

    def _run(self, x: Any, states: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """(y, *states after)."""
        tensors = tuple(self._buffers.values())
        if is_dynamo_compiling() or isinstance(x, fx.Proxy):
            return self._as_op(x, states, tensors)
        if torch.jit.is_tracing():
            return self._as_op(x, states, tensors)
        params.check_call(type(self).__name__, self.sizes, x, states, self.batch_first, self.h_scale.device)
        if not all(is_plain(t) for t in (x, *states, *tensors)):
            return self._as_op(x, states, tensors)
        with _lock:
            return self._pack().compute(x, states)

    def _as_op(self, x: Any, states: tuple[Any, ...], tensors: tuple[Any, ...]) -> tuple[Tensor, ...]:
        s = self.sizes
        given = states or (None,) * self._state_count
        flags = (s.hidden_size, s.num_layers, s.bidirectional, s.bias, s.static, s.group_size, self.batch_first)
        return type(self)._op(x, *given, list(tensors), *flags)

    # -- what a model may ask of the layer it stands for -----------------------------------------------------------

    input_size = property(lambda self: self.sizes.input_size)
    hidden_size = property(lambda self: self.sizes.hidden_size)
    num_layers = property(lambda self: self.sizes.num_layers)
    bidirectional = property(lambda self: self.sizes.bidirectional)
    bias = property(lambda self: self.sizes.bias)
    dropout, proj_size = 0.0, 0

    def flatten_parameters(self) -> None:
        """Nothing: the weights are packed already. Models call it before nn.LSTM."""

    # -- packing ---------------------------------------------------------------------------------------------------

    def _pack(self) -> params.Packed:
        """The packed plans; made again where a buffer is another tensor than it was."""
        packed = self._packed
        current = tuple(self._buffers.values())
        if packed is None or any(a is not b for a, b in zip(self._packed_of, current)):
            packed = params.Packed(type(self).__name__, self.sizes, dict(self._buffers), self.batch_first)  # type: ignore[arg-type]
            self.__dict__["_packed"], self.__dict__["_packed_of"] = packed, current
        return packed

    def repack(self) -> None:
        """Packs the plans anew from the buffers; needed only after one was changed in place.

        Raises FormatError, and keeps the old plans, where they make no layer.
        """
        with _lock:
            params.validate(type(self).__name__, self.sizes, dict(self._buffers))  # type: ignore[arg-type]
            self.renew()

    def explain(self) -> str:
        """Every stage of a call with one time step, or of the last new shape: the kernel, what was rejected and why; and where
        weights hold zeros, the times of both forms."""
        packed = self._pack()
        if not packed.choices:
            packed.plan((1, self.sizes.input_size), True)
        return "\n".join([*(f"note: {n}" for n in packed.notes), table(line(choice) for choice in packed.choices)])

    def extra_repr(self) -> str:
        s = self.sizes
        return (
            f"{s.input_size}, {s.hidden_size}, num_layers={s.num_layers}, bias={s.bias}, "
            f"batch_first={self.batch_first}, bidirectional={s.bidirectional}, scheme={self.scheme}"
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        names = ("input_size", "hidden_size", "num_layers", "bidirectional", "bias", "batch_first")
        sizes = {name: getattr(self, name) for name in names}
        return {"layer": type(self).__name__, **sizes, **scheme_words(self.scheme)}

    def check_tensors(self, op: str, given: dict[str, Any]) -> None:
        for name, tensor in given.items():
            params.check_tensor(op, self.sizes, name, tensor)

    def renew(self) -> None:
        self.__dict__["_packed"] = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_packed", "_packed_of")}
        return kept | {"_packed": None, "_packed_of": ()}


class QuantLSTM(_Recurrent):
    """Takes the place of an nn.LSTM, for inference: int8 (W8A8) or int4 (W4A8) weights, int8 inputs and h;
    float32 c, hx and output.

    Called as nn.LSTM is: x float32 [T, B, K], [B, T, K] with batch_first, or [T, K]; hx = (h0, c0), each
    [layers * directions, B, H] or without B, or nothing for zeros. Returns (y, (hn, cn)). The meaning, to the bit, is
    the contract of `lstm`: weights int8 per row or int4 in groups, h int8 with step h_scale, x with a static scale or
    one per row.
    Dropout between layers belongs to training and is left out. Zeros in the weights are used where that is faster.

    Buffers are plain tensors (`rtaccel.nn.params.recurrent`). A stream with a NaN or an infinity
    in x or hx comes out as NaN; others are not touched. y never requires grad. For every shape of x a plan is packed
    on first use, and the last 8 are kept. After changing a buffer in place, call `repack()`.

    Under torch.compile, torch.export and fake tensors it is the op `torch.ops.rtaccel.quant_lstm`.

    Raises ShapeError for an x or hx of wrong type, device, dtype or shape; UnsupportedProblem for sizes or schemes
    without a kernel; FormatError for parameters that are not valid.

    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.QuantLSTM.from_float(torch.nn.LSTM(8, 16), rt.W8A8(), calibration=torch.randn(64, 8))
        >>> y, (h, c) = layer(torch.randn(5, 3, 8))
        >>> y.shape, h.shape
        (torch.Size([5, 3, 16]), torch.Size([1, 3, 16]))
    """

    kind = "lstm"
    torch_layer = nn.LSTM
    _op = staticmethod(ops.quant_lstm)
    _state_count = 2

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not isinstance(input, Tensor) and (cupy := interop.cupy_of(input)) is not None:
            return interop.call(cupy, self, (input, hx))
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise ShapeError(type(self).__name__, describe(hx), "hx = (h0, c0)", "Pass two tensors, or None.")
        y, h, c = self._run(input, () if hx is None else tuple(hx))
        return y, (h, c)


class QuantGRU(_Recurrent):
    """Takes the place of an nn.GRU, for inference: as QuantLSTM, with hx = h0 and the result (y, hn).

    x float32 [T, B, K], [B, T, K] with batch_first, or [T, K]; h0 float32 [layers * directions, B, H] or without B; y float32
    [T, B, directions * H] in the order of x. Raises the errors of QuantLSTM: ShapeError, UnsupportedProblem, FormatError.

    Example:
        >>> import torch, rtaccel as rt
        >>> layer = rt.nn.QuantGRU.from_float(torch.nn.GRU(8, 16), rt.W8A8(activation="dynamic"))
        >>> y, h = layer(torch.randn(5, 8))
        >>> y.shape, h.shape
        (torch.Size([5, 16]), torch.Size([1, 16]))
    """

    kind = "gru"
    torch_layer = nn.GRU
    _op = staticmethod(ops.quant_gru)
    _state_count = 1

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not isinstance(input, Tensor) and (cupy := interop.cupy_of(input)) is not None:
            return interop.call(cupy, self, (input, hx))
        y, h = self._run(input, () if hx is None else (hx,))
        return y, h


def _supported(op: str, scheme: Scheme) -> Int8Activation:
    if not isinstance(scheme, (W8A8, W4A8)):
        raise UnsupportedProblem(op, str(scheme), "w8a8 or w4a8", "Pass rt.W8A8(), or keep the torch layer.")
    refuse_rounding(op, scheme)
    return scheme


def _group_size(scheme: Int8Activation) -> int:
    return scheme.group_size if isinstance(scheme, W4A8) else 0


def _observed(op: str, calibration: Tensor | Iterable[Tensor] | RangeObserver, width: int) -> RangeObserver:
    if isinstance(calibration, RangeObserver):
        return calibration
    observer = RangeObserver(f"the input of {op}")
    for x in batches_of(op, calibration):
        if not isinstance(x, Tensor) or x.dtype != torch.float32 or not x.dim() or x.shape[-1] != width:
            raise ShapeError(
                op, describe(x), f"calibration tensors float32[..., {width}]", "Pass inputs of this layer."
            )
        observer.observe(x)
    return observer

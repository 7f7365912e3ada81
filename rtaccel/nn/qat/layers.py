"""`FakeQuantLinear`, `FakeQuantConv1d` and `FakeQuantConv2d`: torch's layers, computing with the numbers of a scheme."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import Int8Activation, Scheme
from rtaccel.core.stage import QParams
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn.qat import fake

_DICTS = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class TrainedNumbers:
    """What a plan takes of a layer beside its weights: the scheme, the meaning of a static int8 input, the step of h."""

    scheme: Scheme
    quant: QParams | None = None
    h_scale: float | None = None


class FakeQuant(nn.Module):
    """What these layers share: they are made of a torch layer, whose parameters they keep as they are.

    range_seen: float32 [2], the ends of the range of a static input as calibration found it. range_factor: a parameter, float32
    [2]; the range is range_seen * exp(range_factor), so that one learning rate suits ranges of any size, and weight decay
    draws them to what was seen. Dynamic inputs and float ones have neither.

    mode: "fake", the layer as it trains; "float", the torch layer; "observe", that layer, watching its input.
    """

    BASE: ClassVar[type[nn.Module]]
    scheme: Scheme
    range_seen: Tensor
    range_factor: Tensor

    @classmethod
    def of(cls, module: nn.Module, scheme: Scheme) -> Any:
        """A layer in place of `module`, with the very same parameters. A static one has to be calibrated: `watch`, `settle`."""
        made = _alike(cls, module)
        made.scheme = scheme
        made.__dict__["mode"], made.__dict__["observer"] = "fake", None
        made._set_up()
        return made

    def _set_up(self) -> None:
        if self.static:
            parameter: Any = next(self.parameters())
            with torch.no_grad():
                self.register_buffer("range_seen", parameter.new_tensor([-1.0, 1.0], dtype=torch.float32))
                self.range_factor = nn.Parameter(parameter.new_zeros(2, dtype=torch.float32))

    def plain(self) -> nn.Module:
        """The torch layer again, with the parameters as they are now."""
        made = _alike(self.BASE, self)
        for name in ("scheme", "mode", "observer"):
            made.__dict__.pop(name, None)
        for name in self.OWN:
            made._parameters.pop(name, None)
            made._buffers.pop(name, None)
        return made

    OWN: ClassVar[tuple[str, ...]] = ("range_seen", "range_factor")
    """Names of tensors that the torch layer has not."""

    @property
    def static(self) -> bool:
        return isinstance(self.scheme, Int8Activation) and self.scheme.activation == "static"

    # -- ranges --------------------------------------------------------------------------------------------------

    def watch(self, name: str) -> None:
        """Calls compute in float32 and are observed, until `settle`."""
        self.__dict__["mode"], self.__dict__["observer"] = "observe", RangeObserver(f"the input of {name}")

    def settle(self) -> bool:
        """Takes what was observed as the range. False, in the old mode, where nothing was."""
        observer: RangeObserver | None = self.__dict__["observer"]
        self.__dict__["mode"], self.__dict__["observer"] = "fake", None
        if observer is None or not observer.seen:
            return False
        if self.static:
            assert isinstance(self.scheme, Int8Activation)
            with torch.no_grad():
                self.range_seen.copy_(torch.tensor(fake.range_of(observer.quant(self.scheme.observer))))
        return True

    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number that a static input keeps, float32 [] each, as training left them."""
        low, high = (self.range_seen * self.range_factor.exp()).unbind()
        return low, high

    def numbers(self) -> TrainedNumbers:
        """What a plan is to compute with. Raises FormatError where training broke the range."""
        if not self.static:
            return TrainedNumbers(self.scheme)
        with torch.no_grad():
            scale, zero = fake.quant_of(*self.ends())
        if not 2.0**-126 <= float(scale) < float("inf"):
            raise FormatError(
                type(self).__name__, f"an input range of {[float(e) for e in self.ends()]}", "a finite range",
                "Train with a smaller learning rate for range_factor.",
            )  # fmt: skip
        return TrainedNumbers(self.scheme, QParams(float(scale), int(zero)))

    # -- calling -------------------------------------------------------------------------------------------------

    def _input(self, x: Tensor) -> Tensor:
        """The input as the scheme has it; rows of a dynamic one are what `_rows` makes of it."""
        if not isinstance(self.scheme, Int8Activation):
            return x
        if self.static:
            return fake.static(x, *self.ends())
        rows, back = self._rows(x)
        return back(fake.dynamic(rows))

    def _rows(self, x: Tensor) -> tuple[Tensor, Any]:
        """The parts of an input that share a dynamic scale, as rows, and how they are put back."""
        shape = x.shape
        return x.reshape(-1, shape[-1]), lambda rows: rows.reshape(shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme}"


def _alike(cls: type[nn.Module], module: nn.Module) -> Any:
    """A module of another class with the same content; what is set in one later is not set in the other."""
    made = cls.__new__(cls)
    made.__dict__.update({k: v.copy() if k in _DICTS else copy.copy(v) for k, v in module.__dict__.items()})
    return made


class _Weighted(FakeQuant):
    weight: Tensor

    def forward(self, input: Tensor) -> Tensor:
        mode = self.__dict__["mode"]
        if mode == "observe":
            self.__dict__["observer"].observe(input)
        if mode != "fake":
            return self.BASE.forward(self, input)
        return self._compute(self._input(input), fake.weight(self.weight, self.scheme, type(self).__name__))

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError


class FakeQuantLinear(_Weighted, nn.Linear):
    """An nn.Linear that trains with fake quantization: y = q(x) q(W)^T + bias, q as the scheme stores numbers.

    x float32 [..., K], y float32 [..., N]; weight [N, K] and bias [N] are the parameters of the layer it was made of. Forward,
    the result is that of `QuantLinear` with these numbers, but for the order of float32 sums.
    W8A16 and W4A16 round the weights only.

    Raises FormatError where a weight is not finite.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 4)).eval()
        >>> report = rt.prepare_qat_(model, rt.W4A8(), calibration=[torch.randn(64, 16)])
        >>> type(model[0]).__name__, [name for name, _ in model.named_parameters()]
        ('FakeQuantLinear', ['0.weight', '0.bias', '0.range_factor'])
    """

    BASE = nn.Linear

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.linear(x, weight, self.bias)


class _Conv(_Weighted):
    SPATIAL: ClassVar[int]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    groups: int

    def _compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)  # type: ignore[operator]

    def _rows(self, x: Tensor) -> tuple[Tensor, Any]:
        """A scale for each sample; for each position where the kernel is one position: plans compute that as a linear layer."""
        padding = self.padding if isinstance(self.padding, tuple) else (0,) * self.SPATIAL
        whole = {*self.kernel_size, *self.stride} == {1} and not any(padding) and self.groups == 1
        if whole:
            turned = x.movedim(-self.SPATIAL - 1, -1)
            shape = turned.shape
            return turned.reshape(-1, shape[-1]), lambda rows: rows.reshape(shape).movedim(-1, -self.SPATIAL - 1)
        shape = x.shape
        count = shape[0] if x.dim() == self.SPATIAL + 2 else 1
        return x.reshape(count, -1), lambda rows: rows.reshape(shape)


class FakeQuantConv1d(_Conv, nn.Conv1d):
    """An nn.Conv1d that trains with fake quantization in W8A8; otherwise as FakeQuantLinear. x float32 [batch, C, T] or
    [C, T].

    Dynamic inputs have a scale per sample; per position where kernel and stride are 1, as plans compute that.

    Raises FormatError where a weight is not finite.
    """

    BASE, SPATIAL = nn.Conv1d, 1


class FakeQuantConv2d(_Conv, nn.Conv2d):
    """An nn.Conv2d that trains with fake quantization in W8A8, as FakeQuantConv1d. x float32 [batch, C, H, W] or [C, H, W].

    Raises FormatError where a weight is not finite.
    """

    BASE, SPATIAL = nn.Conv2d, 2

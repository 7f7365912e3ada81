"""Recursive least squares in UD form on a GPU, by a kernel in Numba: for features that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.ud_head import KEYS, positive

_OP = "CudaRLSHead"


class CudaRLSHead:
    """`RLSHead` of one output on a GPU. A sample is one launch on torch's current stream, and nothing waits: features of a model
    on the card are learned from without leaving it.

    features: the size of x, up to 256.
    forget, p0, d_max: as those of `RLSHead`.
    device: of the tensors; None: the GPU, or "cpu" in Numba's simulator (`NUMBA_ENABLE_CUDASIM=1`).

    Its state dict is that of `RLSHead(features, 1)`, so what was learned on one goes on on the other. Sums are in another order,
    so bits differ. Raises BackendUnavailable without a GPU or numba-cuda, ShapeError for sizes, FormatError for settings.
    """

    def __init__(
        self, features: int, forget: float = 0.9999, p0: float = 0.1, d_max: float = 100.0, device: str | None = None
    ) -> None:
        backend = require("numba_cuda")
        from rtaccel.kernels.rls.numba_rls import MAX_D, rls_update

        if type(features) is not int or not 1 <= features <= MAX_D:
            raise ShapeError(_OP, f"features={features!r}", f"a whole number from 1 to {MAX_D}", "Use RLSHead.")
        positive(_OP, p0=p0, forget=forget, d_max=d_max)
        if forget > 1 or p0 > d_max:
            raise FormatError(
                _OP, f"forget={forget}, p0={p0}", f"forget up to 1, p0 up to d_max={d_max}", "Change them."
            )
        self.device = torch.device(device or backend.devices[0])
        if self.device.type not in backend.devices:
            raise FormatError(_OP, f"device={device!r}", " or ".join(backend.devices), "Leave it out.")
        self.features, self.forget, self.p0, self.d_max = features, float(forget), float(p0), float(d_max)
        self._update = rls_update
        self._u, self._w = torch.eye(features, device=self.device), torch.zeros(features, device=self.device)
        self._d = torch.full((features,), self.p0, device=self.device)
        self._counts = torch.zeros(3, dtype=torch.int64, device=self.device)

    def learn_one(self, x: Tensor, y: Tensor) -> Tensor:
        """Learns one sample and gives the error y - w x before learning, float32 [1].

        x: float32 [features]. y: float32 [1]. Both on the device.

        What is not finite changes nothing but `rejected`. Raises ShapeError.
        """
        given, wanted, error = (
            self._vector("x", x, self.features),
            self._vector("y", y, 1),
            torch.empty_like(self._w[:1]),
        )
        self._update(self._u, self._d, self._w, given, wanted, error, self._counts, self.forget, self.d_max)
        return error

    def predict_one(self, x: Tensor) -> Tensor:
        """w x, float32 [1]. x: float32 [features] on the device. Raises ShapeError."""
        return torch.dot(self._w, self._vector("x", x, self.features)).reshape(1)

    def inflate(self, factor: float) -> None:
        """P *= factor, with D up to d_max: what was learned counts for less from here on. Raises FormatError."""
        positive(_OP, factor=factor)
        self._d.mul_(factor).clamp_(max=self.d_max)

    @property
    def weights(self) -> Tensor:
        """w [1, features] on the device, a copy."""
        return self._w.clone()[None]

    @property
    def learned(self) -> int:
        """Samples that were learned. Waits for the device."""
        return int(self._counts[0])

    @property
    def rejected(self) -> int:
        """Samples that were not, as a number was not finite. Waits for the device."""
        return int(self._counts[1])

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """That of `RLSHead`, in NumPy arrays. Waits for the device."""
        tensors = (self._u, self._d, self._w[None], self._counts)
        return {key: t.cpu().numpy().copy() for key, t in zip(KEYS, tensors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of this class or of `RLSHead` with one output. Raises FormatError, with nothing changed, for what
        is no such state."""
        from rtaccel.online.rls import RLSHead

        checked = RLSHead(self.features, 1, self.forget, self.p0, self.d_max)
        checked.load_state_dict({key: value for key, value in state.items() if key not in ("names", "targets")})
        found = checked.state_dict()
        for key, tensor in zip(KEYS, (self._u, self._d, self._w, self._counts)):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(found[key]).reshape(tensor.shape)))

    def _vector(self, name: str, value: Any, size: int) -> Tensor:
        fits = isinstance(value, Tensor) and value.dtype == torch.float32 and tuple(value.shape) == (size,)
        if not fits or value.device.type != self.device.type:
            got = (
                f"{value.dtype} {list(value.shape)} on {value.device}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ShapeError(_OP, f"{name} {got}", f"float32 [{size}] on {self.device}", "Move or convert it.")
        return value.detach().contiguous()

    def __repr__(self) -> str:
        return f"{_OP}({self.features}, forget={self.forget}, p0={self.p0}, d_max={self.d_max}, device='{self.device}')"

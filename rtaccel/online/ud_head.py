"""What the linear models in UD form share: samples in, errors out, states saved and loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.arrays import F32, as_float32, bound_array
from rtaccel.online.names import Names

MAX_FEATURES = 4096
"""RTA_UD_MAX_FEATURES: U is then 33 MB."""

MAX_OUTPUTS = 65536
KEYS = ("U", "D", "w", "counts")


def positive(op: str, **values: float) -> None:
    """Raises FormatError for a value that is not a positive finite number in float32."""
    for name, value in values.items():
        fits = isinstance(value, (int, float, np.number)) and 0 < np.float32(value) < np.inf
        if not fits:
            raise FormatError(op, f"{name}={value!r}", "a positive finite number", f"Change {name}.")


def known_to_river(head: type) -> None:
    """river's metrics and evaluation take what is one of its regressors; where river is loaded, `head` is one by name."""
    base = sys.modules.get("river.base")
    if base is not None and not issubclass(head, base.Regressor):
        base.Regressor.register(head)


class UdHead:
    """y = w phi, learned one sample at a time. Use RLSHead or KalmanHead.

    phi: [features] and y: [outputs], float32 (others are converted), as NumPy arrays, torch tensors or anything with
    DLPack; or dicts of numbers as river has them, whose names take columns in the order in which they first come. An
    instance belongs to one thread at a time.
    """

    _supervised = True  # river's pipelines ask for it

    def __init__(self, features: int, outputs: int, p0: float, noise: float, forget: float, d_max: float) -> None:
        op = type(self).__name__
        for name, size, most in (("features", features, MAX_FEATURES), ("outputs", outputs, MAX_OUTPUTS)):
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size <= most:
                raise ShapeError(op, f"{name}={size!r}", f"a whole number from 1 to {most}", f"Change {name}.")
        positive(op, p0=p0, forget=forget, d_max=d_max)  # `noise` is an argument of some heads, which look at it
        if forget > 1:
            raise FormatError(op, f"forget={forget!r}", "a number in (0, 1]", "Take 1 to forget nothing.")
        if np.float32(p0) > np.float32(d_max):
            raise FormatError(op, f"p0={p0!r} above d_max={d_max!r}", "p0 up to d_max", "Lower p0 or raise d_max.")
        self.features, self.outputs = int(features), int(outputs)
        self._op = op
        self._native = _native.UdHead(self.features, self.outputs, p0, noise, forget, d_max)
        self._names = Names(op, "features", self.features)
        self._targets = Names(op, "outputs", self.outputs)
        known_to_river(UdHead)

    # -- one sample ------------------------------------------------------------------------------------------------

    def learn_one(self, x: Any, y: Any) -> Any:
        """Learns one sample and gives the errors y - w x before learning.

        x: the features float32 [features], or a dict of numbers.
        y: float32 [outputs], a number where there is one output, or a dict of numbers.

        The errors are float32 [outputs]; a float for features in a dict with a number y, a dict where y is one. A sample with a
        NaN, an infinity or a number beyond 1e18 in size changes nothing but `rejected`; its error is what arithmetic gives.
        Raises ShapeError for other shapes.
        """
        named = isinstance(y, Mapping)
        phi = self._phi(x, grow=True)
        wanted = self._targets.row(y, grow=True, missing=np.nan) if named else self._vector("y", y, self.outputs)
        error = np.empty(self.outputs, dtype=np.float32)
        self._native.learn(phi, wanted, error)
        return self._given(error, isinstance(x, Mapping), named)

    def predict_one(self, x: Any) -> Any:
        """w x: float32 [outputs]; for features in a dict a float where there is one output, a dict where targets came as dicts.

        x: the features float32 [features], or a dict of numbers; a NaN gives NaN.

        Raises ShapeError for other shapes.
        """
        y = np.empty(self.outputs, dtype=np.float32)
        self._native.predict_many(1, self._phi(x, grow=False), y)
        by_name = isinstance(x, Mapping)
        return self._given(y, by_name, by_name and bool(self._targets))

    def variance_one(self, x: Any) -> float:
        """x' P x: the variance of the prediction that comes from not knowing w.

        x: the features float32 [features], or a dict of numbers; NaN where they are not finite.

        It is in units of the noise's variance for RLSHead, and of y squared for KalmanHead. Raises ShapeError.
        """
        return float(self._native.variance(self._phi(x, grow=False)))

    def bind(self, phi: Any, y_true: Any = None, *, out: Any) -> Callable[[], None]:
        """A call without arguments, for loops that reuse their buffers: it writes w phi into `out`, and then learns y_true.

        phi: float32 [features], contiguous.
        y_true: float32 [outputs], contiguous; None for a call that predicts.
        out: float32 [outputs], contiguous, in memory of its own: the prediction before learning.

        The arrays are read and written in place at each call and kept alive. A y_true of NaN, as for a label that is not there,
        makes the call a prediction too, and is counted as rejected. Nothing is allocated. Raises ShapeError for arrays that
        would need a copy.
        """
        x = bound_array(self._op, "phi", phi, (self.features,))
        y = None if y_true is None else bound_array(self._op, "y_true", y_true, (self.outputs,))
        to = bound_array(self._op, "out", out, (self.outputs,), written=True)
        if np.may_share_memory(x, to) or (y is not None and np.may_share_memory(y, to)):
            raise ShapeError(self._op, "out in the memory of phi or y_true", "memory of its own", "Allocate it.")
        bound: Callable[[], None] = _native.UdBound(self._native, x, y, to)
        return bound

    # -- many samples ----------------------------------------------------------------------------------------------

    def learn_many(self, phi: Any, y: Any) -> F32:
        """learn_one for rows in order, in one call; the errors before learning, float32 [rows, outputs].

        phi: float32 [rows, features].
        y: float32 [rows, outputs].

        Raises ShapeError.
        """
        x = as_float32(self._op, "phi", phi, (None, self.features))
        wanted = as_float32(self._op, "y", y, (x.shape[0], self.outputs))
        error = np.empty(wanted.shape, dtype=np.float32)
        self._native.learn_many(x.shape[0], x, wanted, error)
        return error

    def predict_many(self, phi: Any) -> F32:
        """w phi for each row, float32 [rows, outputs].

        phi: float32 [rows, features].

        Raises ShapeError.
        """
        x = as_float32(self._op, "phi", phi, (None, self.features))
        y = np.empty((x.shape[0], self.outputs), dtype=np.float32)
        self._native.predict_many(x.shape[0], x, y)
        return y

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> F32:
        """w [outputs, features] float32, a copy."""
        w = np.empty((self.outputs, self.features), dtype=np.float32)
        self._native.weights(w)
        return w

    @property
    def learned(self) -> int:
        """Samples that were learned."""
        return int(self._native.counts()[0])

    @property
    def rejected(self) -> int:
        """Samples that were not, as a number was not finite."""
        return int(self._native.counts()[1])

    def inflate(self, factor: float) -> None:
        """P *= factor, with D up to d_max: what was learned counts for less from here on, as after a drift. Raises
        FormatError for a factor that is not positive and finite."""
        positive(self._op, factor=factor)
        self._native.inflate(factor)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that was learned: U [features, features] unit upper triangular, D [features], w [outputs, features] float32,
        counts [3] int64 (learned, rejected, samples since process noise was added); names of columns, where dicts came."""
        n = self.features
        state: dict[str, NDArray[Any]] = {
            "U": np.empty((n, n), dtype=np.float32),
            "D": np.empty(n, dtype=np.float32),
            "w": np.empty((self.outputs, n), dtype=np.float32),
            "counts": np.empty(3, dtype=np.int64),
        }
        self._native.save(*(state[key] for key in KEYS))
        if self._names:
            state["names"] = self._names.saved()
        if self._targets:
            state["targets"] = self._targets.saved()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, with the same bits. Raises FormatError, with nothing changed, for another size, a key too
        many or too few, or numbers that are no such state."""
        if not isinstance(state, Mapping):
            raise FormatError(
                self._op, f"a state as {type(state).__name__}", "a dict of arrays", "Pass a state_dict()."
            )
        n = self.features
        shapes = {"U": (n, n), "D": (n,), "w": (self.outputs, n), "counts": (3,)}
        if set(state) - {"names", "targets"} != set(KEYS):
            raise FormatError(self._op, f"a state with {sorted(state)}", f"{list(KEYS)}", "Pass a state_dict().")
        arrays = []
        for key, shape in shapes.items():
            dtype = np.int64 if key == "counts" else np.float32
            array = np.asarray(state[key])
            if array.shape != shape or array.dtype != dtype:
                raise FormatError(
                    self._op,
                    f"{key} {array.dtype} {list(array.shape)}",
                    f"{np.dtype(dtype)} {list(shape)}",
                    "Load a state of a head of the same size.",
                )
            arrays.append(np.ascontiguousarray(array))
        names = self._names.parsed(state["names"]) if "names" in state else {}
        targets = self._targets.parsed(state["targets"]) if "targets" in state else {}
        if not self._native.load(*arrays):
            raise FormatError(
                self._op,
                "numbers that are no state",
                "finite ones, U unit upper triangular, D from 0 to d_max, counts not negative",
                "Load an intact state.",
            )
        self._names.set(names)
        self._targets.set(targets)

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self._settings(), "state": self.state_dict()}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__init__(**saved["settings"])  # type: ignore[misc]
        self.load_state_dict(saved["state"])

    def __repr__(self) -> str:
        return f"{self._op}({', '.join(f'{key}={value!r}' for key, value in self._settings().items())})"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _phi(self, phi: Any, grow: bool) -> F32:
        return self._names.row(phi, grow) if isinstance(phi, Mapping) else self._vector("phi", phi, self.features)

    def _vector(self, name: str, value: Any, size: int) -> F32:
        if (
            type(value) is np.ndarray
            and value.dtype == np.float32
            and value.shape == (size,)
            and value.flags.c_contiguous
        ):
            return value
        return as_float32(self._op, name, value, (size,))

    def _given(self, values: F32, by_name: bool, named: bool) -> Any:
        if named:
            return self._targets.named(values)
        return float(values[0]) if by_name and self.outputs == 1 else values

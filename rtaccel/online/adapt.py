"""A learner on a compiled model: a head on its features learns from labels, and is served where it is better."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online.arrays import F32, as_float32, describe, to_array
from rtaccel.online.commit import Better
from rtaccel.online.pending import Pending, Said
from rtaccel.online.rls import RLSHead
from rtaccel.online.ud_head import UdHead, positive


class Adapt:
    """Serves a compiled model, and a head that learned its error where that is better.

    model: a compiled model, whose features become a second output of its plan; one of `tapped(...)`, or any callable, that gives
        (y [batch, ...], features [batch, n]); or a torch model with `example`, which is tapped and compiled here.
    example: inputs of a torch model, as rt.compile takes them.
    tap: the layer whose input is the features, "penultimate" for the last linear one; or a callable that gives the features of
        the inputs, for a model that does not.
    head: an RLSHead or a KalmanHead with n features, or n + 1 for a constant one beside them; None makes one at the first call.
    commit: the rule, Better() for None.
    drift: a detector of river, which sees the root mean squared error of what was served.
    on_drift: "inflate" (P times `inflation`), "reset" (the head anew), or a callable that takes the learner.
    inflation: the factor.
    keep: calls that may wait for their label.
    options: of rt.compile, with `example`.

    `y = learner(x)` is the model's output, or that plus what the head adds; `learner.learn(y_true)` teaches it. The head learns
    the model's residual, y_true - model(x), as a linear function of features that the model computes anyway. For a last linear
    layer that is the same as learning this layer, from its weights on. The rule alone decides what is served. One thread at a
    time.

    All that is learned is in `state_dict`, but for the detector, which starts anew. Raises UnsupportedProblem for a model without
    features, FormatError for settings.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
        >>> learner = rt.online.Adapt(model, (torch.zeros(1, 4),), head=rt.online.RLSHead(9, 1, p0=10.0))
        >>> x = torch.ones(1, 4)
        >>> for _ in range(200):
        ...     error = learner(x) - 3.0
        ...     learner.learn([[3.0]])
        >>> learner.committed, bool(error.abs() < 0.1)
        (True, True)
    """

    def __init__(
        self,
        model: Any,
        example: Any = None,
        *,
        tap: str | Callable[..., Any] = "penultimate",
        head: UdHead | None = None,
        commit: Better | None = None,
        drift: Any = None,
        on_drift: str | Callable[[Adapt], None] = "inflate",
        inflation: float = 10.0,
        keep: int = 4096,
        **options: Any,
    ) -> None:
        if on_drift not in ("inflate", "reset") and not callable(on_drift):
            raise FormatError("Adapt", f"on_drift={on_drift!r}", "'inflate', 'reset' or a callable", "Choose one.")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise FormatError("Adapt", f"keep={keep!r}", "a whole number from 1", "Change keep.")
        if not isinstance(head, UdHead) and head is not None:
            raise FormatError("Adapt", f"head={describe(head)}", "an RLSHead or a KalmanHead", "Pass one, or None.")
        positive("Adapt", inflation=inflation)
        self._model = _prepared(model, example, tap, options)
        self._features_of = tap if callable(tap) else None
        self.head, self.commit = head, commit if commit is not None else Better()
        self.drift, self._on_drift, self.inflation = drift, on_drift, float(inflation)
        self.committed = False
        """Whether the head is served."""
        self.drifts = 0
        """How often the detector saw one."""
        self._pending = Pending(keep)
        self._fresh = None if head is None else head.state_dict()
        self._at_commit = self._fresh

    # -- serving ---------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any) -> Any:
        """The output of the model, or with the head's addition where that is committed, of the model's own type. inputs: as
        the model's, [batch, ...]; each call has the next sequence number, `seq`. Raises what the model raises, ShapeError
        where features or outputs do not fit the head."""
        output, features = self._both(inputs)
        model = _rows("y", output)
        phi = self._row_features(_rows("features", features), model)
        head = self._head(phi, model).predict_many(phi)
        self._pending.add(Said(phi, model, model + head, self.committed))
        if not self.committed:
            return output
        served: Any = (model + head).reshape(np.shape(output))
        if hasattr(output, "new_tensor"):
            return output.new_tensor(served)
        return served

    @property
    def seq(self) -> int:
        """Of the latest call; -1 before there is one."""
        return self._pending.next - 1

    @property
    def waiting(self) -> int:
        """Calls that wait for a label."""
        return len(self._pending)

    def _both(self, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        output = self._model(*inputs)
        if self._features_of is not None:
            return output, self._features_of(*inputs)
        if not isinstance(output, (tuple, list)) or len(output) != 2:
            raise UnsupportedProblem(
                "Adapt",
                f"a model that gives {describe(output)}",
                "(output, features)",
                "Compile rt.online.tapped(model), or pass tap= a callable.",
            )
        return output[0], output[1]

    def _row_features(self, phi: F32, model: F32) -> F32:
        """With a constant one behind them, where the head has a column for it."""
        if len(phi) != len(model):
            raise ShapeError(
                "Adapt", f"features {list(phi.shape)}, y {list(model.shape)}", "as many rows", "Check tap=."
            )
        if self.head is not None and self.head.features == phi.shape[1]:
            return phi
        return np.concatenate([phi, np.ones((len(phi), 1), np.float32)], axis=1)

    def _head(self, phi: F32, model: F32) -> UdHead:
        if self.head is None:
            self.head = RLSHead(phi.shape[1], model.shape[1])
            self._fresh = self._at_commit = self.head.state_dict()
        if (self.head.features, self.head.outputs) != (phi.shape[1], model.shape[1]):
            raise ShapeError(
                "Adapt",
                f"a head of {self.head.features} features and {self.head.outputs} outputs",
                f"{phi.shape[1] - 1} features (or one more) and {model.shape[1]} outputs, as the model has",
                "Make it of that size.",
            )
        return self.head

    # -- learning --------------------------------------------------------------------------------------------------

    def learn(self, y_true: Any, seq: int | None = None) -> None:
        """Learns the label of a call. y_true: [batch, ...] as the output of that call, float32. seq: its sequence number, the
        latest for None; labels may come late, in any order, or never. A label of NaN is none: it is counted by the head as
        rejected. Raises FormatError for a number that waits for no label, ShapeError for another shape; nothing changes then.
        """
        number, said = self._pending.get(seq)
        head = self.head
        assert head is not None  # made by the call that waits
        wanted = _labels(y_true, said.model)
        self._pending.remove(number)
        head.learn_many(said.phi, wanted - said.model)
        with np.errstate(over="ignore", invalid="ignore"):
            for row in range(len(wanted)):
                model, better = (float(np.mean((wanted[row] - y[row]) ** 2)) for y in (said.model, said.head))
                if not np.isfinite(wanted[row]).all():
                    continue
                self._decide(self.commit.update(model, better))
                self._watch(float(np.sqrt(better if said.served_head else model)))

    def _decide(self, serve: bool) -> None:
        if serve and not self.committed:
            assert self.head is not None
            self._at_commit = self.head.state_dict()
        self.committed = serve

    def _watch(self, error: float) -> None:
        if self.drift is None or not np.isfinite(error):
            return
        self.drift.update(error)
        if not self.drift.drift_detected:
            return
        self.drifts += 1
        assert self.head is not None
        if callable(self._on_drift):
            self._on_drift(self)
        elif self._on_drift == "inflate":
            self.head.inflate(self.inflation)
        else:
            self.head.load_state_dict(self._fresh or {})
            self.commit.reset()
            self.committed = False

    def rollback(self) -> None:
        """Serves the model's own bits again. The head goes back to what it was when it was last committed, or in the beginning,
        and is served anew only after the rule holds from fresh labels."""
        if self.head is not None and self._at_commit is not None:
            self.head.load_state_dict(self._at_commit)
        self.commit.reset()
        self.committed = False

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that was learned, flat: head.*, at_commit.* and fresh.* (states of the head), commit.*, pending.* (calls that wait)
        and learner int64 [2] (committed, drifts)."""
        parts: dict[str, Mapping[str, Any]] = {
            "commit": self.commit.state_dict(),
            "pending": self._pending.state_dict(),
        }
        if self.head is not None:
            assert self._at_commit is not None and self._fresh is not None
            parts |= {"head": self.head.state_dict(), "at_commit": self._at_commit, "fresh": self._fresh}
        state = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
        return {**state, "learner": np.array([self.committed, self.drifts], dtype=np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, with the same bits. Raises FormatError, with nothing changed, for one that does not fit."""
        parts: dict[str, dict[str, Any]] = {}
        for key, value in state.items():
            part, _, rest = key.partition(".")
            parts.setdefault(part, {})[rest] = value
        with_head = {"head", "at_commit", "fresh"} <= set(parts)
        wanted = {"commit", "pending", "learner", *(("head", "at_commit", "fresh") if with_head else ())}
        if set(parts) != wanted:
            raise FormatError("Adapt", f"a state with {sorted(parts)}", f"{sorted(wanted)}", "Pass a state_dict().")
        flags = np.asarray(parts["learner"].get(""))
        if flags.shape != (2,) or flags.dtype != np.int64 or flags[0] not in (0, 1) or flags[1] < 0:
            raise FormatError("Adapt", f"learner {flags}", "int64 [2]: committed, drifts", "Load an intact state.")
        head, commit = self.head, copy.deepcopy(self.commit)
        if with_head:
            head = copy.deepcopy(head) if head is not None else _sized(parts["head"])
            for part in ("at_commit", "fresh", "head"):  # the last one stays
                head.load_state_dict(parts[part])
        commit.load_state_dict(parts["commit"])
        pending = self._pending.parsed(
            parts["pending"], head.features if head is not None else 0, head.outputs if head is not None else 0
        )
        # Nothing raises from here on.
        if with_head:
            assert head is not None
            if self.head is not None:
                self.head.load_state_dict(parts["head"])  # the caller's own head goes on
            else:
                self.head = head
            self._at_commit, self._fresh = parts["at_commit"], parts["fresh"]
        self.commit.load_state_dict(parts["commit"])
        self._pending.set(pending)
        self.committed, self.drifts = bool(flags[0]), int(flags[1])


def _prepared(model: Any, example: Any, tap: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """What gives the output and the features: a torch model is tapped and compiled, others are called as they are."""
    if example is None:
        if options:
            raise FormatError("Adapt", f"options {sorted(options)}", "none without an example", "Pass example=.")
        if not callable(model):
            raise UnsupportedProblem("Adapt", describe(model), "a callable", "Pass a compiled model.")
        prepared: Callable[..., Any] = model if callable(tap) else _with_features(model, tap)
        return prepared
    from rtaccel.online.tap import tapped
    from rtaccel.runtime.compiler import compile

    compiled: Callable[..., Any] = compile(model if callable(tap) else tapped(model, tap), example, **options)
    return compiled


def _with_features(model: Any, tap: str) -> Any:
    """A compiled model with one output gets its features as a second one; what else there is has them."""
    runtime = sys.modules.get("rtaccel.runtime.compiled")
    if runtime is None or not isinstance(model, runtime.CompiledModel) or len(model._program.outputs) != 1:
        return model
    from rtaccel.online.tap import tapped

    return tapped(model, tap)


def _rows(name: str, value: Any) -> F32:
    """[batch, ...] as [batch, n] float32, a copy: the model may write over its own memory."""
    array = np.array(to_array("Adapt", name, value, (None,)), dtype=np.float32)
    if array.ndim == 0:
        raise ShapeError("Adapt", f"{name} {describe(value)}", "[batch, ...]", "Keep the batch dimension.")
    return array.reshape(len(array), -1)


def _labels(y_true: Any, like: F32) -> F32:
    array = to_array("Adapt.learn", "y_true", y_true, like.shape)
    if array.size != like.size or (array.ndim > 1 and len(array) != len(like)) or array.dtype.kind not in "fiub":
        raise ShapeError(
            "Adapt.learn", f"y_true {describe(y_true)}", f"{list(like.shape)}", "Pass the label of that call."
        )
    return as_float32("Adapt.learn", "y_true", array.reshape(like.shape), like.shape)


def _sized(state: Mapping[str, Any]) -> UdHead:
    """A head as Adapt makes them, of the size of a state."""
    w = np.asarray(state.get("w"))
    if w.ndim != 2:
        raise FormatError("Adapt", "a state without w of a head", "w [outputs, features]", "Pass a state_dict().")
    return RLSHead(w.shape[1], w.shape[0])

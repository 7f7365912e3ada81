"""A learner on a compiled model: a head on its features learns from labels, and is served where it is better."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online.adapt_inputs import labels_of, prepared, rows_of, sized_head
from rtaccel.online.arrays import F32, describe
from rtaccel.online.commit import Better
from rtaccel.online.pending import Pending, Said
from rtaccel.online.plan_weights import PlanWeights
from rtaccel.online.rls import RLSHead
from rtaccel.online.ud_head import UdHead, positive

SERVE = ("beside", "plan")


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
    serve: "beside": the head's addition is made here, after the call. "plan": the last layer takes it up by `swap`, so that bound
        calls and loops serve it too. It does so anew where the head has become better than what is served, and gives
        it back where what is served is no longer better than the model was. For models that end in a float32 linear layer.
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
        serve: str = "beside",
        **options: Any,
    ) -> None:
        if serve not in SERVE:
            raise FormatError("Adapt", f"serve={serve!r}", " or ".join(map(repr, SERVE)), "Choose one.")
        if on_drift not in ("inflate", "reset") and not callable(on_drift):
            raise FormatError("Adapt", f"on_drift={on_drift!r}", "'inflate', 'reset' or a callable", "Choose one.")
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise FormatError("Adapt", f"keep={keep!r}", "a whole number from 1", "Change keep.")
        if not isinstance(head, UdHead) and head is not None:
            raise FormatError("Adapt", f"head={describe(head)}", "an RLSHead or a KalmanHead", "Pass one, or None.")
        positive("Adapt", inflation=inflation)
        self._model = prepared(model, example, tap, options)
        self._features_of = tap if callable(tap) else None
        self._plan = PlanWeights(self._model) if serve == "plan" else None
        self.head, self.commit = head, commit if commit is not None else Better()
        self._renew = copy.deepcopy(self.commit)  # the head beside what the plan serves
        self._renew.reset()
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
        said = self._said(rows_of("y", output), rows_of("features", features))
        if not self.committed or self._plan is not None:
            return output
        served: Any = said.head.reshape(np.shape(output))
        if hasattr(output, "new_tensor"):
            return output.new_tensor(served)
        return served

    def observe(self, y: Any, features: Any) -> int:
        """Takes a call that was made elsewhere, by a loop or a bound call of the tapped model. y [batch, ...], features
        [batch, n]: what it gave, float32. Its sequence number, for `learn`. With serve="beside" y has nothing of the head.

        Raises ShapeError where they do not fit each other or the head; nothing changes then.
        """
        self._said(rows_of("y", y), rows_of("features", features))
        return self.seq

    def _said(self, y: F32, features: F32) -> Said:
        """What the next call said: of the model as it was compiled, of the head on it, and what was served."""
        if self._plan is not None:
            self._plan.check(y, features)
        phi = self._row_features(features, y)
        model = self._plan.base(features) if self._plan is not None and self._plan.served is not None else y
        head = model + self._head(phi, model).predict_many(phi)
        said = Said(phi, model, head, head if self.committed and self._plan is None else y, self.committed)
        self._pending.add(said)
        return said

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
            own = phi.shape[1] - (self.head.features != phi.shape[1])  # without the one that was put behind them
            raise ShapeError(
                "Adapt",
                f"a head of {self.head.features} features and {self.head.outputs} outputs",
                f"{own} features (or one more) and {model.shape[1]} outputs, as the model has",
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
        wanted = labels_of(y_true, said.model)
        self._pending.remove(number)
        head.learn_many(said.phi, wanted - said.model)
        with np.errstate(over="ignore", invalid="ignore"):
            for row in range(len(wanted)):
                model, better, served = (
                    float(np.mean((wanted[row] - y[row]) ** 2)) for y in (said.model, said.head, said.served)
                )
                if not np.isfinite(wanted[row]).all():
                    continue
                self._decide(model, better, served, said.served_head)
                self._watch(float(np.sqrt(served)))

    def _decide(self, model: float, head: float, served: float, by_head: bool) -> None:
        """What is served from here on, by the squared errors of one label; by_head: whether the head's weights were served."""
        in_plan = self._plan is not None and self.committed
        if in_plan and not by_head:
            return  # a label of before the weights were taken up says nothing of them
        holds = self.commit.update(model, served if in_plan else head)
        better = holds and in_plan and self._renew.update(served, head)
        if (holds and not self.committed) or better:
            self._commit()
        elif not holds and self.committed:
            self._withdraw()

    def _commit(self) -> None:
        assert self.head is not None
        if self._plan is not None:
            self._plan.serve(self.head.weights)
            self._renew.reset()
        self._at_commit = self.head.state_dict()
        self.committed = True

    def _withdraw(self) -> None:
        if self._plan is not None and self._plan.served is not None:
            self._plan.restore()
            self._renew.reset()
            self.commit.reset()
        self.committed = False

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
            self._withdraw()

    def rollback(self) -> None:
        """Serves the model's own bits again. The head goes back to what it was when it was last committed, or in the beginning,
        and is served anew only after the rule holds from fresh labels."""
        if self.head is not None and self._at_commit is not None:
            self.head.load_state_dict(self._at_commit)
        self.commit.reset()
        self._withdraw()

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that was learned, flat: head.*, at_commit.* and fresh.* (states of the head), commit.*, pending.* (calls that wait)
        and learner int64 [2] (committed, drifts). With serve="plan" also renew.* and, where the plan serves a head, plan.w."""
        parts: dict[str, Mapping[str, Any]] = {
            "commit": self.commit.state_dict(),
            "pending": self._pending.state_dict(),
        }
        if self.head is not None:
            assert self._at_commit is not None and self._fresh is not None
            parts |= {"head": self.head.state_dict(), "at_commit": self._at_commit, "fresh": self._fresh}
        if self._plan is not None:
            parts["renew"] = self._renew.state_dict()
            parts |= {} if self._plan.served is None else {"plan": {"w": self._plan.served.copy()}}
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
        if self._plan is not None:
            wanted |= {"renew"} | ({"plan"} & set(parts))
        if set(parts) != wanted:
            raise FormatError("Adapt", f"a state with {sorted(parts)}", f"{sorted(wanted)}", "Pass a state_dict().")
        flags = np.asarray(parts["learner"].get(""))
        if flags.shape != (2,) or flags.dtype != np.int64 or flags[0] not in (0, 1) or flags[1] < 0:
            raise FormatError("Adapt", f"learner {flags}", "int64 [2]: committed, drifts", "Load an intact state.")
        head, commit = self.head, copy.deepcopy(self.commit)
        if with_head:
            head = copy.deepcopy(head) if head is not None else sized_head(parts["head"])
            for part in ("at_commit", "fresh", "head"):  # the last one stays
                head.load_state_dict(parts[part])
        commit.load_state_dict(parts["commit"])
        weights = None
        if self._plan is not None:
            copy.deepcopy(self._renew).load_state_dict(parts["renew"])
            weights = self._plan.parsed(parts.get("plan"))
            if (weights is not None) != bool(flags[0]):
                raise FormatError(
                    "Adapt", "a state whose plan serves another head than it says", "an intact state", "Load one."
                )
        pending = self._pending.parsed(
            parts["pending"], head.features if head is not None else 0, head.outputs if head is not None else 0
        )
        if self._plan is not None:
            self._plan.put(weights)
            self._renew.load_state_dict(parts["renew"])
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

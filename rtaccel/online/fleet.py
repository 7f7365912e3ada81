"""Heads that learned in different places, as one: sums of Gram matrices and of cross products add up.

A head of recursive least squares knows its information matrix L = P^-1 = sum of phi phi' (and what it began with), and L w =
sum of phi y. What one place has learned since it was given a base is L - f L_base and L w - f L_base w_base, with f =
forget^samples. These add up over places, in any order, each once. The formula is that of the information filter (A. G. O.
Mutambara, Decentralized Estimation and Control for Multisensor Systems, 1998).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError
from rtaccel.online.rls import RLSHead

F64 = NDArray[np.float64]

ROUNDING = 1e-3
"""Of a head's information against its size: float32 of U and D, and what that grows to when they are inverted."""

State = Mapping[str, Any]


@dataclass(frozen=True)
class Information:
    """L [features, features], L w [features, outputs] in float64, and how many samples were learned."""

    matrix: F64
    product: F64
    learned: int

    @classmethod
    def of(cls, state: State) -> Information:
        """Of a head's state, whose P = U D U'."""
        u, d, w = (np.asarray(state[key], np.float64) for key in ("U", "D", "w"))
        inverse = np.linalg.solve(u, np.eye(len(d)))  # U is unit upper triangular
        matrix = inverse.T @ (inverse / d[:, None])
        return cls(matrix, matrix @ w.T, int(state["counts"][0]))

    def since(self, base: Information, forget: float) -> Information:
        """What was learned since a base."""
        samples = self.learned - base.learned
        left = forget**samples
        return Information(self.matrix - left * base.matrix, self.product - left * base.product, samples)

    def plus(self, more: Information, forget: float = 1.0) -> Information:
        """With what another place learned; what was known before counts less by as many samples as were learned there."""
        left = forget**more.learned
        return Information(
            left * self.matrix + more.matrix, left * self.product + more.product, self.learned + more.learned
        )

    def state(self, d_max: float) -> dict[str, NDArray[Any]]:
        """Of a head that knows this: P = L^-1 in UD form, D up to d_max, and w."""
        # L = R' R gives P = R^-1 R^-T, and R^-1 is upper triangular: its columns, scaled to a unit diagonal, are U.
        root = np.linalg.cholesky(self.matrix).T
        inverse = np.linalg.solve(root, np.eye(len(root)))
        diagonal = np.diag(inverse)
        u = np.triu(inverse / diagonal)
        np.fill_diagonal(u, 1.0)
        w = np.linalg.solve(self.matrix, self.product).T
        return {
            "U": np.ascontiguousarray(u, np.float32),
            "D": np.minimum(diagonal**2, d_max).astype(np.float32),
            "w": np.ascontiguousarray(w, np.float32),
            "counts": np.array([self.learned, 0, 0], np.int64),
        }


def merge(heads: Iterable[RLSHead], base: RLSHead | None = None) -> RLSHead:
    """One head that knows what all of them learned since `base`, as if it had learned their samples itself.

    heads: with the same settings. base: the head whose state all of them started from; None: a new one.

    With forget=1 the result is least squares over all samples; it differs by float32's rounding in each head, and where D was
    at d_max. With less, every sample counts by how many its own head learned after it; what `base` knew is forgotten once for
    every sample of any of them. A Kalman head's process noise does not add up: it is refused.

    Example:
        >>> import numpy as np, rtaccel as rt
        >>> rng = np.random.default_rng(0)
        >>> heads = [rt.online.RLSHead(features=2, forget=1.0) for _ in range(3)]
        >>> for head in heads:
        ...     for x in rng.normal(size=(30, 2)):
        ...         error = head.learn_one(x, 2 * x[0] - x[1])
        >>> rt.online.merge(heads).learned
        90

    Raises FormatError for heads that do not fit together.
    """
    heads = list(heads) if isinstance(heads, Iterable) else [heads]
    if not heads:
        raise FormatError("merge", "no heads", "one or more", "Pass the heads that learned.")
    first = heads[0] if base is None else base
    _check(first)
    known = RLSHead(**first._settings()) if base is None else base
    fleet = Fleet(known)
    for number, head in enumerate(heads):
        _check(head, first)
        fleet.issue(number)
    fleet.merge({number: head.state_dict() for number, head in enumerate(heads)})
    return fleet.head


class Fleet:
    """Heads at many edges that learn apart and are merged now and then, each sample counted once.

    head: what every edge begins with; it is not changed.

    At each round the edges that are reachable send their states, `merge` adds what each has learned since it was given one, and
    `issue` gives each the new one, for its `load_state_dict`. An edge that was offline goes on with an old state; what it learned
    is added when it comes back.

    Raises FormatError for a head that is no RLSHead.

    Example:
        >>> import rtaccel as rt
        >>> start = rt.online.RLSHead(features=3, forget=1.0)
        >>> fleet, edge = rt.online.Fleet(start), rt.online.RLSHead(features=3, forget=1.0)
        >>> edge.load_state_dict(fleet.issue("pump 7"))
        >>> error = edge.learn_one([1.0, 0.0, 2.0], 3.0)
        >>> fleet.merge({"pump 7": edge.state_dict()})
        >>> fleet.head.learned
        1
    """

    def __init__(self, head: RLSHead) -> None:
        _check(head)
        self._settings = head._settings()
        self._names = _names(head.state_dict())
        state = head.state_dict()
        self._known = Information.of(state)
        self._state = state
        self._bases: dict[Hashable, Information] = {}

    @property
    def head(self) -> RLSHead:
        """A new head that knows what was merged so far."""
        made = RLSHead(**self._settings)
        made.load_state_dict(self._state)
        return made

    @property
    def edges(self) -> int:
        """How many were given a state."""
        return len(self._bases)

    def issue(self, edge: Hashable) -> dict[str, NDArray[Any]]:
        """The newest state, for one edge to go on from; from here on its next state is compared with this one.

        Merge what it has learned first: what it does not send before is lost with its old state.
        """
        if not isinstance(edge, Hashable):
            raise FormatError("Fleet", f"edge={edge!r:.80}", "a name, a number or a tuple", "Name the edge by one.")
        self._bases[edge] = Information.of(self._state)
        return {key: np.array(value) for key, value in self._state.items()}

    def merge(self, states: Mapping[Hashable, State]) -> None:
        """Adds what edges have learned. states: of each that is reachable, U, D [features], w float32 and counts int64, as
        `state_dict()` gives.

        An edge that sends again before it is given a new state adds only what came since. Raises FormatError, with nothing
        changed, for an edge that was given no state, another size, fewer samples than it had, or numbers that are no state.
        """
        if not isinstance(states, Mapping):
            raise FormatError("Fleet", f"states: {type(states).__name__}", "a dict from each edge to its state",
                              'Write {"pump 7": edge.state_dict()}.')  # fmt: skip
        found: dict[Hashable, Information] = {}
        total, forget = self._known, float(self._settings["forget"])
        for edge, state in states.items():
            base = self._bases.get(edge)
            if base is None:
                raise FormatError(
                    "Fleet", f"a state of {edge!r}", "an edge that was given one", "Call issue(edge) first."
                )
            probe = RLSHead(**self._settings)
            probe.load_state_dict(state)  # refuses what is no state of this size
            if _names(state) != self._names:
                raise FormatError(
                    "Fleet",
                    f"columns {_names(state)} of {edge!r}",
                    f"{self._names}",
                    "Give the start head the names first.",
                )
            if not (np.asarray(state["D"]) > 0).all():
                raise FormatError(
                    "Fleet", f"D of {edge!r} with zeros", "positive numbers", "Start from a head with p0 > 0."
                )
            known = Information.of(state)
            if known.learned < base.learned:
                raise FormatError(
                    "Fleet", f"{known.learned} samples of {edge!r}", f"at least the {base.learned} that it was issued",
                    "It started anew: issue it a state.",
                )  # fmt: skip
            found[edge] = known
            if known.learned > base.learned:
                more = known.since(base, forget)
                values = np.linalg.eigvalsh(more.matrix)
                if values[0] < -ROUNDING * max(values[-1], np.abs(known.matrix).max()):
                    raise FormatError("Fleet", f"a state of {edge!r} that knows less than it was issued", "the same and more",
                                      "It goes on from another state: issue it one.")  # fmt: skip
                total = total.plus(more, forget)
        try:
            state = total.state(float(self._settings["d_max"]))
        except np.linalg.LinAlgError:
            got = "a sum that is no information matrix"
            raise FormatError("Fleet", got, "states with enough digits", "Start with a smaller p0.") from None
        kept: dict[str, Any] = {key: self._state[key] for key in ("names", "targets") if key in self._state}
        RLSHead(**self._settings).load_state_dict({**state, **kept})
        self._known, self._state = total, {**state, **kept}
        self._bases.update(found)


def _check(head: Any, like: RLSHead | None = None) -> None:
    if type(head) is not RLSHead:
        raise FormatError("merge", f"a {type(head).__name__}", "heads of recursive least squares", "Use RLSHead.")
    if like is not None and head._settings() != like._settings():
        raise FormatError("merge", repr(head), f"the same settings, {like!r}", "Merge heads that are alike.")


def _names(state: State) -> tuple[bytes, ...]:
    return tuple(np.asarray(state[key]).tobytes() for key in ("names", "targets") if key in state)

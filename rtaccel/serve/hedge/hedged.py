"""`rt.Hedged`: the remote model's answer if it is in time, else the local one's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.serve.hedge.breaker import Breaker, RetryBudget, number
from rtaccel.serve.hedge.function import Function
from rtaccel.serve.hedge.stats import HedgeStats


class Asked(Protocol):
    """What a remote can do: `rtaccel.serve.remote.Remote`, or a class of your own.

    One with early exits on the edge also has `post_here(*inputs)`, which gives the number of a request that the edge answers by
    itself and else None, and `answered_here(number)`, whether it has.
    """

    def post(self, *inputs: Any) -> int:
        """Sends a request and gives its number, which no other has."""

    def take(self, timeout_s: float) -> tuple[int, Any] | None:
        """The next answer, (number, result), or None after the time. A result of None: the remote could not compute."""


class Hedged:
    """Asks a remote model and computes a local one meanwhile; gives the better answer that is there in time.

    local: a small model, called as `local(*inputs)` in the caller's thread at each call.
    remote: a `rtaccel.serve.remote.Remote`, or a function that blocks: it then runs in threads of its own.
    deadline_us: from the beginning of the call. An answer of the remote after it is never given, and counted as late.
    margin_us: so long before the deadline the waiting ends, for the way back to the caller; None: a tenth of the deadline, at
        most 100.
    retry_after_us: when a request without an answer is sent again, if the budget has some left; None: after half of the deadline.
    retries: a `RetryBudget`; None: a tenth of the requests. breaker: a `Breaker`; None: one that opens at 90 % of 20 requests.
    clock: nanoseconds that never go back.

    Requests have numbers, and an answer counts for its own alone. No clock of the other machine is looked at. One thread at a
    time. What the edge of a remote with early exits answers by itself says nothing of the link: the breaker does not see it, and
    where it is open the edge is still asked.

    Raises FormatError for settings that there are not, ShapeError where the remote's tensors have other shapes than the local
    ones. What `local` raises comes through; so does a typed error of the remote for inputs that do not fit. A remote that cannot
    be reached is a failure, which the breaker sees.

    Example:
        >>> import rtaccel as rt
        >>> hedged = rt.Hedged(local=lambda x: x, remote=lambda x: 2 * x, deadline_us=500_000)
        >>> hedged(21), hedged.source
        (42, 'remote')
    """

    def __init__(
        self,
        local: Callable[..., Any],
        remote: Asked | Callable[..., Any],
        deadline_us: float,
        *,
        margin_us: float | None = None,
        retry_after_us: float | None = None,
        retries: RetryBudget | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if not callable(local):
            raise FormatError("Hedged", f"local={local!r}", "a model, or a function", "Pass the small model.")
        deadline = number("Hedged", "deadline_us", deadline_us)
        margin = min(100.0, deadline / 10) if margin_us is None else number("Hedged", "margin_us", margin_us, zero=True)
        if margin >= deadline:
            raise FormatError("Hedged", f"margin_us={margin!r}", f"less than the deadline, {deadline:g}", "Lower it.")
        again = deadline / 2 if retry_after_us is None else number("Hedged", "retry_after_us", retry_after_us)
        self.local = local
        asked = hasattr(remote, "post") and hasattr(remote, "take")
        self.remote: Any = remote if asked else Function(remote)  # type: ignore[arg-type]
        self.deadline_us = deadline
        self._wait_ns, self._deadline_ns, self._again_ns = (int(v * 1e3) for v in (deadline - margin, deadline, again))
        self._retries, self._breaker, self._clock = retries or RetryBudget(), breaker or Breaker(), clock
        self._stats = HedgeStats()
        self.source: str | None = None
        """Of the last answer: "remote", "edge" where the edge of the remote answered by itself, or "local"."""

    def __call__(self, *inputs: Any) -> Any:
        """The remote's result if it is in time, else the local one; `source` says whose."""
        start = self._clock()
        self._drop_late()
        numbers, at_edge = self._send(inputs, start)
        mine = self.local(*inputs)
        found, theirs = self._wait(inputs, numbers, start) if numbers else (False, None)
        end = self._clock()
        if numbers and not at_edge:
            self._breaker.record(found, end)
        self._stats.calls += 1
        self.source = ("edge" if at_edge else "remote") if found else "local"
        if found:
            self._stats.edge += at_edge
            self._stats.remote += not at_edge
            _check_alike(theirs, mine)
            return theirs
        self._stats.local += 1
        self._stats.overrun += end > start + self._deadline_ns
        return mine

    def _drop_late(self) -> None:
        """Answers to earlier calls."""
        while (found := self.remote.take(0.0)) is not None:
            self._stats.late += found[1] is not None

    def _send(self, inputs: tuple[Any, ...], now: int) -> tuple[set[int], bool]:
        """(numbers of requests whose answers count, whether the edge of the remote has answered)."""
        if not self._breaker.allows(now):
            posted = self._post(getattr(self.remote, "post_here", None), inputs)
            self._stats.held_back += posted is None
            return (set(), False) if posted is None else ({posted}, True)
        posted = self._post(self.remote.post, inputs)
        if posted is None:
            self._breaker.record(False, now)
            return set(), False
        if hasattr(self.remote, "answered_here") and self.remote.answered_here(posted):
            return {posted}, True
        self._stats.sent += 1
        self._retries.earn()
        return {posted}, False

    def _post(self, post: Callable[..., int | None] | None, inputs: tuple[Any, ...]) -> int | None:
        try:
            return None if post is None else post(*inputs)
        except (OSError, UnsupportedProblem):
            self._stats.failed += 1
            return None

    def _wait(self, inputs: tuple[Any, ...], numbers: set[int], start: int) -> tuple[bool, Any]:
        """(whether the remote's answer is there in time, the answer)."""
        until, again = start + self._wait_ns, start + self._again_ns
        tried = False
        while True:
            now = self._clock()
            if not tried and now >= again and now < until:
                tried = True
                posted = self._post(self.remote.post, inputs) if self._retries.spend() else None
                if posted is not None:
                    self._stats.sent += 1
                    self._stats.retries += 1
                    numbers.add(posted)
            left = max(0, (until if tried else min(until, again)) - now)
            found = self.remote.take(left * 1e-9)
            if found is None:
                if self._clock() >= until:
                    return False, None
                continue
            answered, result = found
            if answered not in numbers:
                self._stats.late += result is not None
            elif result is None:
                self._stats.failed += 1
                numbers.discard(answered)
                if not numbers:
                    return False, None
            elif self._clock() > start + self._deadline_ns:
                self._stats.late += 1
                return False, None
            else:
                return True, result

    def stats(self) -> HedgeStats:
        """Counts so far, a copy."""
        return replace(self._stats, opened=self._breaker.opened)

    def close(self) -> None:
        """Closes the remote."""
        if hasattr(self.remote, "close"):
            self.remote.close()

    def __enter__(self) -> Hedged:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check_alike(theirs: Any, mine: Any) -> None:
    if isinstance(theirs, torch.Tensor) and isinstance(mine, torch.Tensor) and theirs.shape == mine.shape:
        return
    got, wanted = (
        [list(y.shape) for y in pytree.tree_leaves(tree) if isinstance(y, torch.Tensor)] for tree in (theirs, mine)
    )
    if wanted and got != wanted:
        expected = f"{wanted}, as the local model gives"
        raise ShapeError("Hedged", f"tensors of the remote of {got}", expected, "Ask a remote of the same task.")

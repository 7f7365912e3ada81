"""What was said of each call until its label comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError
from rtaccel.online.arrays import F32


class Said(NamedTuple):
    """Of one call: features [rows, n], the outputs of the model, of the head and what was served [rows, outputs], float32.
    served_head: whether that was a head's."""

    phi: F32
    model: F32
    head: F32
    served: F32
    served_head: bool


class Pending:
    """The last `keep` calls without a label, by sequence number; labels come late, never, or in any order."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.next = 0
        self._calls: dict[int, Said] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, said: Said) -> int:
        """Takes a call; the oldest one goes where there are too many. Its sequence number."""
        seq = self.next
        self.next += 1
        self._calls[seq] = said
        if len(self._calls) > self.keep:
            del self._calls[next(iter(self._calls))]
        return seq

    def get(self, seq: int | None) -> tuple[int, Said]:
        """The call with this number, the latest for None. Raises FormatError for one that waits for no label."""
        number = self.next - 1 if seq is None else seq
        if isinstance(number, (int, np.integer)) and int(number) in self._calls:
            return int(number), self._calls[int(number)]
        if not isinstance(number, (int, np.integer)) or not 0 <= number < self.next:
            why = "which was not given yet"
        else:
            why = f"whose label was learned before, or which is older than the last {self.keep} calls without one"
        raise FormatError(
            "Adapt.learn",
            f"a label for sequence number {number}, {why}",
            f"one of the {len(self._calls)} calls that wait for a label",
            "Keep learner.seq with each call, or raise keep=.",
        )

    def remove(self, seq: int) -> None:
        del self._calls[seq]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """next, and the calls one after the other: seq, rows, by_head int64 [calls]; phi, model, head, served float32."""
        calls = list(self._calls.values())
        return {
            "next": np.array([self.next]),
            "seq": np.array(list(self._calls), dtype=np.int64),
            "rows": np.array([len(said.phi) for said in calls], dtype=np.int64),
            "by_head": np.array([said.served_head for said in calls], dtype=np.int64),
            **{
                key: np.concatenate([getattr(said, key) for said in calls]) if calls else np.empty((0, 0), np.float32)
                for key in ("phi", "model", "head", "served")
            },
        }

    def parsed(self, state: Mapping[str, Any], features: int, outputs: int) -> tuple[int, dict[int, Said]]:
        """What a state holds; raises FormatError. Nothing is changed."""
        if set(state) != {"next", "seq", "rows", "by_head", "phi", "model", "head", "served"}:
            raise FormatError("Adapt", f"pending calls with {sorted(state)}", "a state_dict()", "Pass one.")
        s = {key: np.asarray(value) for key, value in state.items()}
        seq, rows = s["seq"], s["rows"]
        whole = all(s[key].dtype == np.int64 and s[key].ndim == 1 for key in ("next", "seq", "rows", "by_head"))
        right = whole and s["next"].shape == (1,) and seq.shape == rows.shape == s["by_head"].shape
        right = right and bool((np.diff(seq, append=s["next"]) > 0).all() and (seq >= 0).all() and (rows > 0).all())
        for key, width in (("phi", features), ("model", outputs), ("head", outputs), ("served", outputs)):
            wanted = (int(rows.sum()), width) if right and len(seq) else (0, 0)
            right = right and s[key].dtype == np.float32 and s[key].shape == wanted
        if not right or len(seq) > self.keep:
            raise FormatError("Adapt", "pending calls that do not fit", "those of the same learner", "Load its state.")
        ends = np.cumsum(rows)
        calls = {}
        for i, number in enumerate(seq):
            part = slice(int(ends[i] - rows[i]), int(ends[i]))
            phi, model, head, served = (s[key][part].copy() for key in ("phi", "model", "head", "served"))
            calls[int(number)] = Said(phi, model, head, served, bool(s["by_head"][i]))
        return int(s["next"][0]), calls

    def set(self, parsed: tuple[int, dict[int, Said]]) -> None:
        self.next, self._calls = parsed

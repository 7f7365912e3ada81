"""Which of a batcher's streams are there, and how that changes while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rtaccel.core.errors import ShapeError
from rtaccel.serve.puts import check_stream


class Members:
    """Numbers of streams, all of them at first. change: of the native side, 1 where a sample was waiting. running(op) raises
    where the batcher does not run. All raise ShapeError for other streams, with nothing changed."""

    def __init__(self, streams: int) -> None:
        self._streams, self._gone = streams, set[int]()
        self._changing = threading.Lock()

    @property
    def present(self) -> list[int]:
        with self._changing:
            return [s for s in range(self._streams) if s not in self._gone]

    def reset(self, streams: Any, change: Callable[[int], int], running: Callable[[str], None]) -> list[int]:
        """Those that are there; gives which had a sample waiting."""
        with self._changing:
            return self._changed("reset", self._chosen("reset", streams, there=True), change, running)

    def remove(self, streams: Any, change: Callable[[int], int], running: Callable[[str], None]) -> list[int]:
        """They are gone."""
        with self._changing:
            chosen = self._chosen("remove", streams, there=True)
            waited = self._changed("remove", chosen, change, running)
            self._gone |= set(chosen)
        return waited

    def add(self, streams: Any, change: Callable[[int], int], running: Callable[[str], None]) -> None:
        """They are there again."""
        with self._changing:
            chosen = self._chosen("add", streams, there=False)
            self._changed("add", chosen, change, running)
            self._gone -= set(chosen)

    def _chosen(self, op: str, streams: Any, there: bool) -> list[int]:
        chosen = [streams] if isinstance(streams, int) else list(streams)
        for stream in chosen:
            check_stream(stream, self._streams)
        wrong = [s for s in chosen if (s in self._gone) == there]
        if wrong or len(set(chosen)) != len(chosen):
            what = "streams that are there" if there else "streams that were removed"
            raise ShapeError(op, f"streams {wrong or chosen}", f"{what}, none twice", "See .streams.")
        return chosen

    @staticmethod
    def _changed(op: str, chosen: list[int], change: Callable[[int], int], running: Callable[[str], None]) -> list[int]:
        running(op)
        return [s for s in chosen if change(s) == 1]

"""Which stream of a model a sequence has, and what waits for it: as the sequence batcher of Triton.

A sequence gets a stream with a request that says `sequence_start`, and gives it back with one that says `sequence_end`. Its
requests are stepped in the order of their arrival, one in each batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from rtaccel.serve.v2.refusals import Full, UnknownSequence
from rtaccel.serve.v2.request import Parameters, Sequence


class Track:
    """A sequence. waiting: its requests that are not answered, the one in a batch included. live: its first one was stepped.
    closing: the last of them ends it."""

    __slots__ = ("closing", "id", "live", "stream", "used_ns", "waiting")

    def __init__(self, id: Sequence, stream: int) -> None:
        self.id, self.stream = id, stream
        self.waiting: deque[Any] = deque()
        self.live = self.closing = False
        self.used_ns = 0


class Sequences:
    """All sequences of a model of `streams` streams."""

    def __init__(self, model: str, streams: int, idle_ns: int) -> None:
        self.model, self.streams, self.idle_ns = model, streams, idle_ns
        self.given_up = 0
        self._tracks: dict[Sequence, Track] = {}  # the one that was used first is first
        self._free = list(range(streams - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._tracks)

    def __iter__(self) -> Iterator[Sequence]:
        """Those that wait for nothing, the one that was used first in front."""
        return iter([track.id for track in self._tracks.values() if not track.waiting])

    @property
    def full(self) -> bool:
        return not self._free

    def find(self, sequence: Sequence) -> Track | None:
        return self._tracks.get(sequence)

    def open(self, sequence: Sequence, now_ns: int) -> Track:
        """A stream for a sequence that is not here. Raises Full."""
        assert sequence not in self._tracks
        track = self._tracks[sequence] = Track(sequence, self._stream(now_ns))
        track.used_ns = now_ns
        return track

    def close(self, track: Track) -> None:
        """Gives back the stream of a sequence that waits for nothing."""
        assert not track.waiting
        self._release(track)

    def admit(self, asked: Parameters, job: Any, now_ns: int) -> Track:
        """The sequence of a request, which waits there from now on. Raises UnknownSequence; Full where every stream is in use."""
        if asked.sequence is None:
            raise UnknownSequence(
                "infer",
                f"a request of {self.model!r} without sequence_id",
                "one, as the model has a past",
                "Pass sequence_id, with sequence_start for its first step.",
            )
        track = self._tracks.get(asked.sequence)
        if not asked.start and (track is None or track.closing):
            raise self.unknown(asked.sequence)
        if track is None:
            track = Track(asked.sequence, self._stream(now_ns))
        else:
            del self._tracks[asked.sequence]
        self._tracks[asked.sequence] = track
        track.closing, track.used_ns = asked.end, now_ns
        track.waiting.append(job)
        return track

    def done(self, track: Track, ended: bool) -> None:
        """After its oldest request: gives the stream back at the end. ended: that request was its last, and was stepped."""
        track.waiting.popleft()
        if ended:
            track.live = False
        if track.waiting:
            return
        if track.live:
            track.closing = False  # its last request failed, and can be sent again
        elif self._tracks.get(track.id) is track:
            self._release(track)

    def unknown(self, sequence: Sequence) -> UnknownSequence:
        return UnknownSequence(
            "infer",
            f"sequence {sequence!r} of {self.model!r}, which has not begun, has ended, or was idle",
            "one that goes on",
            "Send its first step with sequence_start.",
        )

    def _stream(self, now_ns: int) -> int:
        if not self._free:
            oldest = next((t for t in self._tracks.values() if not t.waiting), None)
            if oldest is None or now_ns - oldest.used_ns < self.idle_ns:
                raise Full(
                    "infer",
                    f"one more sequence of {self.model!r}",
                    f"at most {self.streams} at once",
                    "End others with sequence_end, or save the model with more streams.",
                )
            self.given_up += 1
            self._release(oldest)
        return self._free.pop()

    def _release(self, track: Track) -> None:
        del self._tracks[track.id]
        self._free.append(track.stream)

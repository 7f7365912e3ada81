"""A detector of anomalies that costs some 50 ns a sample: records of range, season and jump."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.online.arrays import describe, to_array
from rtaccel.online.checks import count, state_arrays, stream_of

EPOCH = datetime.datetime(1970, 1, 1)

F64 = NDArray[np.float64]


def seconds_of(time: Any) -> float:
    """Seconds since 1970 on the clock that the time shows, without regard to time zones: seasons follow the wall. None: NaN.

    Takes numbers of seconds, datetime and numpy.datetime64. Raises FormatError.
    """
    if time is None:
        return float("nan")
    if isinstance(time, datetime.datetime):
        return (time.replace(tzinfo=None) - EPOCH).total_seconds()
    if isinstance(time, np.datetime64):
        return float(time.astype("datetime64[us]").astype(np.int64)) / 1e6
    try:
        return float(time)
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(
            "Records", f"time {time!r:.80}", "seconds since 1970, datetime or numpy.datetime64", "Convert it."
        ) from error


class Records:
    """Scores of anomalies, of one value or of many streams of values; a score of 1 or more is an alert.

    range: threshold of how far a value leaves [min, max] of all values so far, over max - min.
    season: threshold, in samples, of the EWMA (1/20) of the value minus the mean of that EWMA at this half hour, working days and
        weekends apart. Where the difference is a new extreme, it counts for how many samples its size is the largest.
    jump: threshold, in samples, of the difference to the last value. Where it leaves the range of differences, which shrinks by
        1e-4 a sample, it counts for how many samples its size is the largest.
    streams: of `score_many`.

    Each score is over its threshold, and the largest of the three counts. The first 40 samples score 0. Without a time there is
    no season. The EWMA starts at 0, so an offset of all values changes when seasons count.

    A value that is not finite, or 1e300 or more in size, is missing: it scores NaN and changes nothing, but no difference is
    taken across it. Gaps in time need nothing, as samples are counted. The thresholds are what did best on the NAB corpus.
    Raises FormatError for settings.

    Example:
        >>> from rtaccel.online import Records
        >>> det = Records()
        >>> [det.score_one(v) for v in [0.0, 1.0] * 30 + [1.5]][-1] >= 1
        True
    """

    def __init__(self, range: float = 0.005, season: float = 800, jump: float = 8000, streams: int = 1) -> None:
        for name, value in (("range", range), ("season", season), ("jump", jump)):
            if not isinstance(value, (int, float)) or not 0 < value < 1e300:
                raise FormatError("Records", f"{name}={value!r}", "a positive number", f"Change {name}.")
        self.range, self.season, self.jump = float(range), float(season), float(jump)
        self.streams = streams = count("Records", "streams", streams)
        try:
            self._native = _native.Records(streams, self.range, self.season, self.jump)
        except ValueError as error:
            raise ShapeError("Records", f"{streams} streams", "as many as fit memory", "Use fewer.") from error

    def score_one(self, value: float, time: Any = None) -> float:
        """The score of the next value of the first stream. time: seconds since 1970, datetime, numpy.datetime64 or None.

        NaN where the value is missing. Raises FormatError for a time of another type, ShapeError for no number."""
        try:
            return float(self._native.score_one(value, seconds_of(time)))
        except TypeError as error:
            raise ShapeError("Records", f"value {describe(value)}", "a number", "Pass a float.") from error

    def score_many(self, values: Any, time: Any = None) -> F64:
        """The scores of the next values of all streams, at one time: values [streams] float64; [streams] float64. Raises
        ShapeError, FormatError as score_one does."""
        x = self._floats("values", values, (self.streams,))
        scores = np.empty(self.streams)
        self._native.score_many(x, seconds_of(time), scores)
        return scores

    def score_series(self, values: Any, times: Any = None, stream: int = 0) -> F64:
        """The scores of a series of one stream, in order: values [n] float64, times [n] seconds or numpy.datetime64, or None;
        [n] float64. Raises ShapeError."""
        stream = stream_of("Records", stream, self.streams)
        x = self._floats("values", values, None)
        if times is not None:
            times = np.asarray(times)
            if times.dtype.kind == "M":
                times = times.astype("datetime64[us]").astype(np.int64) / 1e6
            times = self._floats("times", times, x.shape)
        scores = np.empty(x.shape)
        self._native.series(stream, x, times, scores)
        return scores

    def missing(self, stream: int = 0) -> int:
        """Values of a stream that were not finite."""
        return int(self._native.missing(stream_of("Records", stream, self.streams)))

    def reset(self) -> None:
        """All streams start anew."""
        self._native.reset(0, self.streams)

    @property
    def state_bytes(self) -> int:
        """Bytes of what all streams have seen."""
        return int(self._native.bytes())

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that the streams have seen: state uint8 [bytes], in the byte order of this machine; settings float64 [4]."""
        state = np.empty(self.state_bytes, dtype=np.uint8)
        self._native.save(state)
        return {"state": state, "settings": np.array([self.range, self.season, self.jump, self.streams])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, with the same bits. Raises FormatError, with nothing changed, where it is another's."""
        wanted = self.state_dict()
        got = state_arrays("Records", state, wanted)
        if not np.array_equal(got["settings"], wanted["settings"]):
            raise FormatError(
                "Records", f"settings {got['settings']}", f"{wanted['settings']}", "Make it with the same settings."
            )
        same = got["state"].dtype == np.uint8 and got["state"].shape == wanted["state"].shape
        if not same or not self._native.load(np.ascontiguousarray(got["state"])):
            raise FormatError("Records", "bytes that are no state", "those of state_dict()", "Load an intact state.")

    @staticmethod
    def _floats(name: str, value: Any, shape: tuple[int, ...] | None) -> F64:
        try:
            array = np.ascontiguousarray(to_array("Records", name, value, shape or (None,)), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ShapeError("Records", f"{name} {describe(value)}", "numbers", "Convert it.") from error
        if array.ndim != 1 or (shape is not None and array.shape != shape):
            raise ShapeError(
                "Records",
                f"{name} {describe(value)}",
                f"{name} {'[n]' if shape is None else list(shape)}",
                "Pass one number for each.",
            )
        return array

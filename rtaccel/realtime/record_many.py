"""Recording several slots on one clock, and putting them again in the order in which they were put."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.realtime.latest import Latest
from rtaccel.realtime.record import DAMAGED, POLL_S, VERSION, Recording, Taker, _bits, opened

FIELDS = ("values", "seq", "stamp_ns", "put_ns")


@dataclass(frozen=True)
class Recordings:
    """Recordings of several slots, by name; their times are of one clock."""

    parts: dict[str, Recording]

    @property
    def n(self) -> int:
        """Values of all slots."""
        return sum(part.n for part in self.parts.values())

    @property
    def lost(self) -> int:
        """Values of all slots that were replaced before the recorder saw them."""
        return sum(part.lost for part in self.parts.values())

    @classmethod
    def of(
        cls,
        slots: Mapping[str, Latest],
        seconds: float | None = None,
        count: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Recordings:
        """Reads slots as they are written, for so long, or so many values of all together. A slot that a loop reads too is made
        with readers="many". Raises FormatError where neither is given or there is no slot, and what `get` raises."""
        if not slots or (seconds is None and count is None):
            raise FormatError("record", "no slot, or no seconds and no count", "both", "Name slots, and say how long.")
        takers = {name: Taker(slot) for name, slot in slots.items()}
        end, taken = None if seconds is None else time.monotonic() + seconds, 0
        while (end is None or time.monotonic() < end) and (count is None or taken < count) and not stop():
            got = sum(taker.take() for taker in takers.values())
            taken += got
            if not got:
                time.sleep(POLL_S)
        return cls({name: taker.recording() for name, taker in takers.items()})

    def save(self, path: str | Path) -> None:
        """As an .npz file, without pickle, whole or not at all. Raises FormatError where it cannot be written."""
        arrays: dict[str, Any] = {}
        for i, part in enumerate(self.parts.values()):
            arrays |= {f"{i}_{field}": getattr(part, field) for field in FIELDS}
        names, dtypes = list(self.parts), [part.dtype for part in self.parts.values()]
        file = io.BytesIO()
        np.savez(file, version=np.int64(VERSION), names=np.array(names), dtypes=np.array(dtypes), **arrays)
        whole_file.write("record", path, file.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Recordings:
        """What `save` wrote, or a Recording of one slot, whose name is then "". Raises FormatError for anything else."""
        try:
            with opened(path) as data:
                if "names" not in data:
                    return cls({"": Recording.load(path)})
                if int(data["version"]) != VERSION:
                    raise ValueError(f"version {int(data['version'])}")
                names, dtypes = (list(map(str, data[key])) for key in ("names", "dtypes"))
                if len(names) != len(dtypes) or len(set(names)) != len(names):
                    raise ValueError("names and dtypes that do not belong together")
                parts = {}
                for i, name in enumerate(names):
                    values, seq, stamp, put = (data[f"{i}_{field}"] for field in FIELDS)
                    parts[name] = Recording(values, seq, stamp, put, dtypes[i])
        except DAMAGED as error:
            raise FormatError(
                "recording", f"{path}: {error}", "a file that `rtaccel loop record` wrote", "Record it again."
            ) from error
        for name, part in parts.items():
            if not part.is_whole:
                raise FormatError(
                    "recording", f"{path}: arrays of {name!r}", "those of one recording", "Record it again."
                )
        return cls(parts)

    def replay(self, slots: Mapping[str, Latest], speed: float = 1.0, stop: Callable[[], bool] = lambda: False) -> int:
        """Puts the values again into the slots of their names, in the order and rhythm (divided by `speed`) of their puts; gives
        how many. Stamps keep their distance to the puts. speed: 0 puts without waiting, with stamps of now.

        Raises FormatError for slots of other names, UnsupportedProblem for one of another shape or dtype; then nothing was put.
        """
        if not np.isfinite(speed) or speed < 0:
            raise FormatError("replay", f"speed={speed}", "0 or more", "1 is as it was.")
        if set(slots) != set(self.parts):
            raise FormatError("replay", f"slots {sorted(slots)}", f"{sorted(self.parts)}, as recorded", "Pass those.")
        for name, part in self.parts.items():
            slot = slots[name]
            if slot.dtype != part.dtype or slot.shape != part.values.shape[1:]:
                raise UnsupportedProblem(
                    "replay",
                    f"{name!r}: {part.dtype}{list(part.values.shape[1:])}",
                    f"{slot.dtype}{list(slot.shape)}, as the slot's",
                    "Make a slot for the recording.",
                )
        order = sorted(
            (int(put), i, index)
            for i, part in enumerate(self.parts.values())
            for index, put in enumerate(part.put_ns.tolist())
        )
        names, parts = list(self.parts), list(self.parts.values())
        values = [_bits(part.values, part.dtype) for part in parts]
        start, done = time.monotonic_ns(), 0
        for put, i, index in order:
            at = start + (int((put - order[0][0]) / speed) if speed else 0)
            while (left := at - time.monotonic_ns()) > 0 and not stop():
                time.sleep(max(left - 50_000, 0) * 1e-9)
            if stop():
                break
            before = int(parts[i].stamp_ns[index]) - order[0][0]
            stamp = start + int(before / speed) if speed else time.monotonic_ns()
            slots[names[i]].put(values[i][index], stamp_ns=max(stamp, 1))
            done += 1
        return done

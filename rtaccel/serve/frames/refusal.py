"""Why a frame is refused."""

from __future__ import annotations

from rtaccel.core.errors import FormatError

REASONS = {
    -1: ("truncated", "a whole frame"),
    -2: ("oversize", "a frame of the bytes that its head says, and no more than is expected"),
    -3: ("magic", "a frame, which begins with RTAF"),
    -4: ("version", "a frame of version 1"),
    -5: ("digest", "a frame that is intact, written with the key of this end"),
    -6: ("layout", "tensors of the shapes and wires that this end expects"),
    -7: ("model", "a frame of the same model"),
    -8: ("replayed", "a sequence number that was not there yet"),
    -9: ("reordered", "a frame newer than all before it"),
    -10: ("session", "a frame of the sender's latest start"),
    -11: ("kind", "a request where requests come in, an answer where answers do"),
}
"""Code of the native side -> (reason, what was expected)."""


class FrameRefused(FormatError):
    """A frame that is not used: nothing of it was read into memory, and what the receiver remembers is as before.

    reason: one of the words in `REASONS`: truncated, oversize, magic, version, digest, layout, model, replayed, reordered,
        session, kind.
    """

    def __init__(self, code: int, what: str) -> None:
        self.reason, expected = REASONS[code]
        super().__init__("frame", f"{what} ({self.reason})", expected, "It was dropped; the sender may send anew.")

"""What lies between two machines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rtaccel.core.errors import FormatError

PACKET_BYTES = 1472
"""Of a frame in one packet of Ethernet: 1500 less the heads of IP and UDP."""


@dataclass(frozen=True)
class Link:
    """A link of one round trip and one width: a frame of n bytes takes rtt / 2 + n / width there.

    rtt_us: there and back, of an empty packet, in microseconds.
    mb_s: megabytes (1e6 bytes) a second in each direction; None: so many that it does not matter.
    loss: share of packets that do not arrive, 0 to below 1. A frame is lost with any of its packets.
    timeout_us: after which a lost request is sent again; None: after twice the time of one that is not lost.
    most_bytes: of a frame, 65507 for one datagram; cuts that send more are not chosen. None: no limit.

    Raises FormatError for values out of these ranges.

    Example:
        >>> import rtaccel as rt
        >>> rt.Link(rtt_us=200, mb_s=10).us(2560, 64)
        462.4
    """

    rtt_us: float
    mb_s: float | None = None
    loss: float = 0.0
    timeout_us: float | None = None
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        self._check("rtt_us", 0.0, inclusive=True)
        if self.mb_s is not None:
            self._check("mb_s", 0.0)
        if self.timeout_us is not None:
            self._check("timeout_us", 0.0)
        if self.most_bytes is not None:
            self._check("most_bytes", 0.0)
        self._check("loss", 0.0, inclusive=True)
        if self.loss >= 1:
            raise FormatError("Link", f"loss={self.loss!r}", "a share below 1", "0.02 is 2 %.")

    def _check(self, name: str, least: float, inclusive: bool = False) -> None:
        value: Any = getattr(self, name)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < least or (value == least and not inclusive):
            kind = "a finite number, 0 or above" if inclusive else "a positive finite number"
            raise FormatError("Link", f"{name}={value!r}", kind, f"Change {name}.")

    def us(self, up_bytes: float, down_bytes: float) -> float:
        """Microseconds on the wire of a request and its answer, where nothing is lost."""
        return self.rtt_us + (0.0 if self.mb_s is None else (up_bytes + down_bytes) / self.mb_s)

    def arrives(self, up_bytes: int, down_bytes: int) -> float:
        """The share of requests whose every packet arrives, and whose answer's does."""
        packets = math.ceil(up_bytes / PACKET_BYTES) + math.ceil(down_bytes / PACKET_BYTES)
        return (1.0 - self.loss) ** packets

    def expected_us(self, whole_us: float, up_bytes: int, down_bytes: int) -> float:
        """The mean with losses: each lost attempt costs the time after which it is sent again.

        whole_us: of an attempt that succeeds, with what both machines compute.
        """
        lost = 1.0 / self.arrives(up_bytes, down_bytes) - 1.0
        return whole_us + lost * self.resend_us(whole_us)

    def percentile_us(self, share: float, whole_us: float, up_bytes: int, down_bytes: int) -> float:
        """What so large a share of the requests (0.99, say) takes at most, of losses alone."""
        failing = 1.0 - self.arrives(up_bytes, down_bytes)
        attempts = 1 if failing <= 1.0 - share else math.ceil(math.log(1.0 - share) / math.log(failing))
        return whole_us + (attempts - 1) * self.resend_us(whole_us)

    def resend_us(self, whole_us: float) -> float:
        """When a lost request of this time is sent again."""
        return 2.0 * whole_us if self.timeout_us is None else self.timeout_us

"""What became of the calls."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class HedgeStats:
    """calls; remote, edge, local: whose answer was given; edge: that of a remote with early exits. sent: requests, with those
    sent again; retries: these alone. late: answers that came after their call had been answered, and were dropped.
    failed: requests that could not be sent, or whose answer says that the remote could not compute. held_back: calls without a
    request, as the breaker was open; opened: how often it did.
    overrun: calls that were answered after the deadline, as the local model or the machine was too slow; the remote's answer
        never is.
    """

    calls: int = 0
    remote: int = 0
    edge: int = 0
    local: int = 0
    sent: int = 0
    retries: int = 0
    late: int = 0
    failed: int = 0
    held_back: int = 0
    opened: int = 0
    overrun: int = 0

    @property
    def local_share(self) -> float:
        """Of the calls, 0..1."""
        return self.local / self.calls if self.calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "local_share": self.local_share}

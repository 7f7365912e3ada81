"""Learning in the hot path: linear heads, streaming features, a detector of anomalies, and learners on compiled models.

Everything here takes NumPy arrays, and torch's tensors without importing torch; only `tapped`, `folded` and `CudaRLSHead` need
torch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtaccel.core.lazy import attributes
from rtaccel.online import features
from rtaccel.online.adapt import Adapt
from rtaccel.online.bank import Bank
from rtaccel.online.commit import Better
from rtaccel.online.fleet import Fleet, merge
from rtaccel.online.ftrl import FTRLHead
from rtaccel.online.kalman import KalmanHead
from rtaccel.online.records import Records
from rtaccel.online.rls import RLSHead

__all__ = [
    "Adapt",
    "Bank",
    "Better",
    "CudaRLSHead",
    "FTRLHead",
    "Fleet",
    "KalmanHead",
    "RLSHead",
    "Records",
    "features",
    "folded",
    "merge",
    "tapped",
]

if TYPE_CHECKING:
    from rtaccel.online.cuda_rls import CudaRLSHead
    from rtaccel.online.tap import folded, tapped
else:
    __getattr__ = attributes(
        __name__,
        {**dict.fromkeys(("folded", "tapped"), "rtaccel.online.tap"), "CudaRLSHead": "rtaccel.online.cuda_rls"},
    )

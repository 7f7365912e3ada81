"""Learning in the hot path: linear heads, streaming features, a detector of anomalies, and learners on compiled models.

Everything here takes NumPy arrays, and torch's tensors without importing torch.
"""

from __future__ import annotations

from rtaccel.online import features
from rtaccel.online.bank import Bank
from rtaccel.online.ftrl import FTRLHead
from rtaccel.online.kalman import KalmanHead
from rtaccel.online.records import Records
from rtaccel.online.rls import RLSHead

__all__ = ["Bank", "FTRLHead", "KalmanHead", "RLSHead", "Records", "features"]

"""A remote model's answer if it is in time, else a local one's."""

from rtaccel.serve.hedge.breaker import Breaker, RetryBudget
from rtaccel.serve.hedge.function import Function
from rtaccel.serve.hedge.hedged import Hedged
from rtaccel.serve.hedge.stats import HedgeStats

__all__ = ["Breaker", "Function", "HedgeStats", "Hedged", "RetryBudget"]

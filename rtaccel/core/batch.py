"""How many samples a call may have: the sizes of the first dimension that a compiled model is right for."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BatchRange:
    """Sizes lo to hi, both included; hi None: no upper limit. why: what the model assumes, a sentence for each condition."""

    lo: int = 0
    hi: int | None = None
    why: tuple[str, ...] = ()

    def __contains__(self, size: int) -> bool:
        return self.lo <= size and (self.hi is None or size <= self.hi)

    def cut(self, lo: int = 0, hi: int | None = None, why: str = "") -> BatchRange:
        """The sizes that are in both."""
        highs = [h for h in (self.hi, hi) if h is not None]
        found = replace(self, lo=max(self.lo, lo), hi=min(highs, default=None))
        return replace(found, why=(*self.why, why)) if why and why not in self.why else found

    @property
    def fixed(self) -> bool:
        return self.lo == self.hi

    def __str__(self) -> str:
        if self.fixed:
            return f"fixed to {self.lo}"
        if self.hi is None:
            return "dynamic" if self.lo == 0 else f"dynamic, at least {self.lo}"
        return f"dynamic, at most {self.hi}" if self.lo == 0 else f"dynamic, {self.lo} to {self.hi}"


ANY_BATCH = BatchRange()


def only(size: int, why: str = "") -> BatchRange:
    """One size and no other."""
    return BatchRange(size, size, (why,) if why else ())

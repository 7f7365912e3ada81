"""For how many rows a kernel that computes products without tensor cores is worth taking: an estimate, not a measurement.

Such a kernel reads each weight once and issues some instructions for every 16 bytes of them and every row. As long as
issuing takes no longer than the reading, or than a microsecond, tensor cores have nothing to gain on it. The rates are those
of an H100: 132 multiprocessors, four warps issuing at 1.755 GHz, 3.35 TB/s. No card has confirmed the rule.
"""

from __future__ import annotations

MAX_ROWS = 8
"""Sums that a lane keeps in registers, one for each row."""

LANES_PER_US = 132 * 4 * 32 * 1755
BYTES_PER_US = 3.35e6
AT_LEAST_US = 1.0


def too_many_rows(rows: int, weight_bytes: int, instructions: float) -> str | None:
    """None, or why tensor cores should take this.

    instructions: of one lane, for 16 bytes of weights and each row. Unpacking the weights is not counted: tensor cores need
    it too.
    """
    if rows > MAX_ROWS:
        return f"keeps one sum per row in registers, for M <= {MAX_ROWS}, not M = {rows}"
    issue = weight_bytes / 16 * instructions * max(rows, 1) / LANES_PER_US
    read = weight_bytes / BYTES_PER_US
    if issue > max(read, AT_LEAST_US):
        return f"would multiply for {issue:.1f} us on an H100 at M = {rows}, where reading takes {read:.1f} us"
    return None

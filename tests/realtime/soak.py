"""`python -m tests.realtime.soak [READS]`: reads across two processes while the slot is written, 1e9 by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import rtaccel as rt
from rtaccel import _native as native


def main(reads: int) -> int:
    bad = 0
    for readers in ("one", "many"):
        name = f"soak-{os.getpid()}-{readers}"
        slot = rt.Latest((48,), "int64", name, readers=readers)
        writer = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("writer.py")), name, str(10**15), "1", "fast"]
        )
        try:
            torn, backward, fresh, ns = native.latest_soak_get(slot, reads)
        finally:
            writer.kill()
            writer.wait()
            slot.unlink()
        print(
            f"readers={readers}: {reads:,} reads, {fresh:,} new, {torn} torn, {backward} backward, {ns:.1f} ns a read"
        )
        bad += torn + backward
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**9))

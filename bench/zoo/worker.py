"""The process of one network: `python -m bench.zoo.worker NAME FILE` surveys it and writes what it found as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    name, target = sys.argv[1], Path(sys.argv[2])
    import torch

    from bench.zoo.entry import entries
    from bench.zoo.packages import offline
    from bench.zoo.survey import survey

    offline()
    torch.set_num_threads(1)
    target.write_text(json.dumps(survey(entries()[name]).as_json()))


if __name__ == "__main__":
    main()

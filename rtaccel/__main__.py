"""`python -m rtaccel`: the command line, also where the scripts of an environment are not in the path."""

from __future__ import annotations

import sys

from rtaccel.cli.main import main

sys.exit(main())

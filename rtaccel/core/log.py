"""The logger of the package, "rtaccel". It has no handler of its own: a program that wants to read it sets one.

    logging.basicConfig(level=logging.INFO); logging.getLogger("rtaccel").setLevel(logging.DEBUG)

INFO: what a call did, in a line. DEBUG: what it did to each layer, and why.
"""

from __future__ import annotations

import logging

log = logging.getLogger("rtaccel")
log.addHandler(logging.NullHandler())

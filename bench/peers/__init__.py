"""rtaccel beside every runtime a user could install instead, on the same networks, in one interleaved run.

    python -m bench.peers [--models NAME ...] [--peers NAME ...] [--rounds 20] [--cold] [--update-docs]

`models.py` holds the networks, one file per runtime (a kit) how it converts, loads and is called. Every runner lives in a
process of its own; the parent hands out the turn. See docs/explanation/performance.md for what is measured and how.
"""

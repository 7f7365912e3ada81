"""The harness measured: `python -m rtaccel.measure.selftest` says how often its verdicts are wrong, and what it costs."""

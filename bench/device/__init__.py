"""What runs on a GPU, in one go of some minutes: figures of rtaccel and of what stands beside it, and the checks of its kernels.

    python -m bench.device setup       install the project onto the system's packages, without a network
    python -m bench.device             measure, check, compare; the figures as they come, one JSON and one page at the end
    python -m bench.device checks      the tests that need a card alone
    python -m bench.device report FILE the page again, from the rows of a run that may have been cut short
    python -m bench.device --rehearse  the whole run on stand-ins, in a small part of the time

`table.py` says what is measured and in which order. `supervisor.py` runs each row in a process that it can end, whatever the
row does. The files called `measure_*` hold what the rows do. Only they import torch before the first process is started.
"""

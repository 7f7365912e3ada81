"""The whole step of RLS + L1 in `rt.Loop`: in C, on its grid, with a deadline, on states that another thread puts."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rtaccel as rt
import rtaccel._native as native
from examples._shared.outcome import Missing
from examples.adaptive_control import control, plant
from rtaccel.realtime import CStep

PERIOD_US, DEADLINE_US = 250.0, 50.0
"""Four times the controller's rate, so that many cycles fit into some seconds."""

HERE = Path(__file__).parent


class Params(ctypes.Structure):
    """`params` of step.c."""

    _fields_ = [
        (name, ctypes.c_double)
        for name in ("position", "velocity", "tilt", "rate", "bandwidth", "most", "dt", "gravity", "mass", "inertia", "lag",
                     "forget", "p0", "d_max")
    ]  # fmt: skip


def params() -> Params:
    return Params(
        control.POSITION, control.VELOCITY, control.TILT, control.RATE, control.BANDWIDTH, control.MOST, plant.DT,
        plant.GRAVITY, plant.MASS, plant.INERTIA, plant.LAG, control.FORGET, control.P0, control.D_MAX,
    )  # fmt: skip


def built(folder: Path) -> ctypes.CDLL:
    """step.c as a library in this folder. Raises Missing where there is no compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Missing("no C compiler for step.c: install one, such as gcc, to run the step in rt.Loop.")
    package = Path(native.__file__).parent
    library = folder / "step.so"
    command = [
        *compiler.split(),
        "-O2",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        str(HERE / "step.c"),
        "-o",
        str(library),
    ]
    command += [f"-I{package / 'include'}", f"-L{package}", "-lrtaccel", f"-Wl,-rpath,{package}", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"step.c was not compiled by {compiler}: {done.stderr.strip().splitlines()[-1]}")
    found = ctypes.CDLL(str(library))
    found.control_create.restype = ctypes.c_void_p
    found.control_create.argtypes = [ctypes.c_char_p, ctypes.POINTER(Params)]
    found.control_destroy.argtypes = [ctypes.c_void_p]
    found.clock_stops.restype, found.clock_stops.argtypes = ctypes.c_long, [ctypes.c_double, ctypes.c_double]
    return found


@contextmanager
def step_in_c(folder: Path) -> Iterator[CStep]:
    """The step with what it holds; the basis is saved to the folder, and read from there."""
    library, basis = built(folder), folder / "basis.rta"
    rt.save(control.compiled(), basis)
    made = library.control_create(os.fsencode(basis), ctypes.byref(params()))
    if not made:
        raise Missing(f"step.c did not open {basis}: rebuild rtaccel, so that librtaccel.so is of this version.")
    try:
        yield CStep(library.control_step, (2,), self_pointer=made)
    finally:
        library.control_destroy(made)


def states(steps: int, seed: int = 0) -> NDArray[np.float32]:
    """[steps, 16]: what the step reads in a figure of eight that is flown well, with a noisy accelerometer."""
    wanted = plant.reference(steps)
    noise = np.random.default_rng(seed).normal(size=(steps, 2)) * plant.ACCELEROMETER
    return np.concatenate([wanted[:, :4], np.zeros((steps, 2)), wanted[:, 4:6] + noise, wanted], 1).astype(np.float32)


def stops_per_s(seconds: float) -> float:
    """How often this machine stops a thread that only reads the clock for longer than the deadline. No loop is late more
    rarely. Raises Missing where there is no C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        return built(Path(folder)).clock_stops(DEADLINE_US, seconds * 1e6) / seconds


def in_loop(cycles: int, period_us: float = PERIOD_US) -> rt.LoopStats:
    """So many cycles. Raises Missing where there is no C compiler."""
    rows = states(7000)
    read, write = rt.Latest((16,)), rt.Latest((2,))
    with tempfile.TemporaryDirectory() as folder, step_in_c(Path(folder)) as step, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the system does not allow
        read.put(rows[0])
        loop = rt.Loop(
            step, read=read, write=write, period_us=period_us, deadline_us=DEADLINE_US, max_age_us=1e6, on_miss="late",
            spin_us=0.4 * period_us, priority=50,
        )  # fmt: skip
        with loop:
            at = 0
            while (now := loop.stats()).cycles < cycles and now.state == "running":
                at = (at + 1) % len(rows)
                read.put(rows[at])
                time.sleep(0.001)
        return loop.stats()

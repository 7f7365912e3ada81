"""Ending processes with everything that they started, also what left their session and lost its parent.

This process makes itself the reaper of its descendants (prctl PR_SET_CHILD_SUBREAPER): an orphan becomes its child, whatever
session it is in, so a walk down from here finds it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_ended: dict[int, int] = {}
"""Wait status of children that were reaped here, by process id."""


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def become_reaper() -> bool:
    """Whether orphans below become children of this process from here on."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """For a child right after its start: it ends when its parent does."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def reap() -> None:
    """Takes note of children that ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _ended[pid] = status


def status_of(pid: int) -> int | None:
    """Wait status of a child that ended, None while it runs."""
    reap()
    return _ended.get(pid)


def forget(pid: int) -> None:
    """For a child that was just started: the system uses numbers again."""
    _ended.pop(pid, None)


def parents() -> dict[int, int]:
    """Parent of every process that /proc shows."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                found[int(entry.name)] = int(after_name[1])
            except (OSError, IndexError, ValueError):  # it has just ended
                continue
    return found


def below(root: int) -> set[int]:
    """Every process under `root`, without it. Those that ended and wait to be reaped count: their threads may live on."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    open_ends = [root]
    while open_ends:
        for pid in children.get(open_ends.pop(), ()):
            if pid not in found:
                found.add(pid)
                open_ends.append(pid)
    return found


def strangers(kept: set[int]) -> set[int]:
    """Processes below this one that are neither in `kept` nor below one of them: what nobody wants any more."""
    reap()
    wanted = set(kept).union(*(below(pid) for pid in kept)) if kept else set()
    return below(os.getpid()) - wanted


def end_others(kept: set[int], limit_s: float) -> set[int]:
    """Kills every stranger and waits until none is there; gives those that do not go."""
    until = time.monotonic() + limit_s
    while True:
        left = strangers(kept)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        left = strangers(kept)
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.01)


def said(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else "?"
        more = "; the system may have been out of memory" if number == signal.SIGKILL else ""
        return f"the process was ended by signal {number} ({name}){more}"
    return f"the process ended with exit code {os.waitstatus_to_exitcode(status)} before its row was done"

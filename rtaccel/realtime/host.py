"""What this machine lacks for a loop with microsecond deadlines, and the next step for each."""

from __future__ import annotations

import os
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_SYS = Path("/sys")
_PROC = Path("/proc")


@dataclass(frozen=True)
class HostFinding:
    """One thing a loop depends on. ok: True or False, None where the system does not say. next_step: empty where it is ok."""

    name: str
    value: str
    ok: bool | None
    next_step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "lack", None: "?   "}[self.ok]
        return f"{mark}  {self.name}: {self.value}" + (f"\n      next: {self.next_step}" if self.next_step else "")


def check(sys: Path = _SYS, proc: Path = _PROC) -> list[HostFinding]:
    """Real-time priority, locked memory, preemption, governor, isolated cores, SMT, transparent huge pages, idle states.

    Reads what the system says and changes nothing. sys, proc: where that is mounted.

    Example:
        >>> import rtaccel as rt
        >>> [f.name for f in rt.realtime.check()][:2]
        ['SCHED_FIFO', 'locked memory']
    """
    return [
        _fifo(),
        _memlock(),
        _throttling(proc),
        _preemption(sys),
        _governor(sys),
        _isolated(sys),
        _smt(sys),
        _huge_pages(sys),
        _idle(sys),
        _timer(proc),
    ]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _chosen(text: str) -> str:
    """The word in brackets of a list of choices."""
    return text.partition("[")[2].partition("]")[0] or text


def _unlimited(n: int) -> str:
    return "unlimited" if n == resource.RLIM_INFINITY else f"{n:,}"


def _fifo() -> HostFinding:
    """Whether a thread may take SCHED_FIFO: by privilege or by RLIMIT_RTPRIO."""
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    privileged = _capable(23)  # CAP_SYS_NICE
    allowed = 99 if privileged or limit == resource.RLIM_INFINITY else limit
    step = "Add '@realtime - rtprio 95' to /etc/security/limits.d/, join that group and log in again (systemd: LimitRTPRIO=95)."
    return HostFinding(
        "SCHED_FIFO", f"up to priority {allowed}" if allowed else "not allowed", allowed > 0, "" if allowed else step
    )


def _memlock() -> HostFinding:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if _capable(14):  # CAP_IPC_LOCK
        return HostFinding("locked memory", "any amount, by privilege", True)
    enough = limit == resource.RLIM_INFINITY or limit >= 64 << 20
    step = "Add '@realtime - memlock unlimited' to /etc/security/limits.d/ (systemd: LimitMEMLOCK=infinity)."
    return HostFinding("locked memory", f"{_unlimited(limit)} bytes", enough, "" if enough else step)


def _capable(bit: int) -> bool:
    for line in (_read(_PROC / "self" / "status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> bit & 1)
    return False


def _throttling(proc: Path) -> HostFinding:
    runtime = _read(proc / "sys" / "kernel" / "sched_rt_runtime_us")
    if runtime is None:
        return HostFinding("real-time throttling", "not known", None)
    off = runtime == "-1"
    return HostFinding(
        "real-time throttling",
        "off" if off else f"{runtime} us of each second for real-time threads",
        True,
        ""
        if off
        else "Loops that leave 5 % of their core idle are not throttled; else sysctl kernel.sched_rt_runtime_us=-1.",
    )


def _preemption(sys: Path) -> HostFinding:
    if _read(sys / "kernel" / "realtime") == "1":
        return HostFinding("preemption", "PREEMPT_RT", True)
    return HostFinding(
        "preemption",
        os.uname().version.partition("#")[2] or os.uname().version,
        False,
        "Boot a PREEMPT_RT kernel (in Linux 6.12 and later, CONFIG_PREEMPT_RT=y) where the longest wake-up matters.",
    )


def _governor(sys: Path) -> HostFinding:
    found = {_read(path) for path in sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))}
    found.discard(None)
    if not found:
        return HostFinding(
            "frequency governor",
            "not shown (virtual machine, or fixed frequency)",
            None,
            "On the host: cpupower frequency-set -g performance.",
        )
    ok = found == {"performance"}
    names = ", ".join(sorted(filter(None, found)))
    return HostFinding("frequency governor", names, ok, "" if ok else "cpupower frequency-set -g performance")


def _isolated(sys: Path) -> HostFinding:
    cores = _read(sys / "devices" / "system" / "cpu" / "isolated") or ""
    return HostFinding(
        "isolated cores",
        cores or "none",
        bool(cores),
        "Pass one of them as cpu=."
        if cores
        else "Boot with isolcpus=N nohz_full=N rcu_nocbs=N for one core N, and pass cpu=N.",
    )


def _smt(sys: Path) -> HostFinding:
    active = _read(sys / "devices" / "system" / "cpu" / "smt" / "active")
    if active is None:
        return HostFinding("SMT", "not shown", None)
    on = active == "1"
    step = "Leave the sibling of the loop's core idle, or: echo off > /sys/devices/system/cpu/smt/control"
    return HostFinding("SMT", "on: two threads share a core" if on else "off", not on, step if on else "")


def _huge_pages(sys: Path) -> HostFinding:
    text = _read(sys / "kernel" / "mm" / "transparent_hugepage" / "enabled")
    if text is None:
        return HostFinding("transparent huge pages", "not shown", None)
    chosen = _chosen(text)
    ok = chosen != "always"
    step = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: khugepaged moves pages of a running process."
    return HostFinding("transparent huge pages", chosen, ok, "" if ok else step)


def _idle(sys: Path) -> HostFinding:
    """The slowest idle state that is not disabled says what a wake-up can cost."""
    worst = 0
    for state in sys.glob("devices/system/cpu/cpu0/cpuidle/state*"):
        latency = _read(state / "latency")
        if _read(state / "disable") != "1" and latency and latency.isdigit():
            worst = max(worst, int(latency))
    if not list(sys.glob("devices/system/cpu/cpu0/cpuidle/state*")):
        return HostFinding("idle states", "not shown (virtual machine)", None)
    ok = worst <= 10
    return HostFinding(
        "idle states",
        f"up to {worst} us to leave one",
        ok,
        "" if ok else "cpupower idle-set -D 10, or give spin_us more than that.",
    )


def _timer(proc: Path) -> HostFinding:
    source = _read(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
    if source is None:
        return HostFinding("clock source", "not shown", None)
    ok = source in ("tsc", "kvm-clock", "arch_sys_counter")
    return HostFinding(
        "clock source", source, ok, "" if ok else "Boot with tsc=reliable: reading this one is a system call."
    )

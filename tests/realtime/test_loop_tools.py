"""Around the loop: recordings, the command line, Prometheus, what the host lacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.cli import main
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.realtime import HostFinding, Recording, check
from rtaccel.realtime.stats import LoopHistogram


@pytest.fixture
def running(name: str) -> Iterator[Any]:
    fast = rt.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    x = rt.Latest((3,))
    x.put(torch.ones(3))
    loop = rt.Loop(
        fast, x, rt.Latest((2,)), period_us=2000, deadline_us=2000, max_age_us=60e6, lock_memory=False, name=name
    )
    with loop:
        while loop.stats().cycles < 5:
            time.sleep(0.001)
        yield loop


def test_top(running: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["top", name, "--once"]) == 0
    said = capsys.readouterr().out
    assert "wake-up error" in said
    assert "running" in said
    assert main.main(["top", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cycles"] >= 5
    assert found["response"]["n"] >= 5
    assert main.main(["top"]) == 0
    assert name in capsys.readouterr().out
    assert main.main(["top", "--json"]) == 0
    assert name in [one["name"] for one in json.loads(capsys.readouterr().out)]
    assert main.main(["top", "no-such-loop", "--once"]) == 2


def test_top_live(running: Any, name: str) -> None:
    pytest.importorskip("rich", reason="the package rich is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "rtaccel.cli.main", "top", name, "--seconds", "0.3", "--every", "0.05"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "response" in done.stdout


@pytest.mark.parametrize("dtype", ["float32", "int16", "bfloat16"])
def test_recorded_and_replayed_bit_for_bit(name: str, tmp_path: Path, dtype: str) -> None:
    kind = getattr(torch, dtype)
    rng = torch.Generator().manual_seed(1)
    values = (torch.randn(40, 3, generator=rng) * 100).to(kind)
    if dtype == "float32":
        values[3, 1] = float("nan")
    slot = rt.Latest((3,), dtype, name, readers="many")
    other = rt.Latest.open(name)
    stamps, enough = [], Event()

    def write() -> None:  # for as long as it takes: a busy machine loses many
        while not enough.is_set():
            stamp = time.monotonic_ns() - 1234
            slot.put(values[len(stamps) % 40], stamp_ns=stamp)
            stamps.append(stamp)
            time.sleep(0.002)

    thread = Thread(target=write)
    thread.start()
    try:
        made = Recording.of(other, seconds=60, count=30)
    finally:
        enough.set()
        thread.join()
    made.save(tmp_path / "a.npz")
    again = Recording.load(tmp_path / "a.npz")
    assert again.n == 30
    first = int(made.seq[0])
    assert again.lost == int(made.seq[-1]) - first + 1 - 30
    bits = values.view(torch.uint16).numpy() if dtype == "bfloat16" else values.numpy()
    assert again.values.tobytes() == bits[(again.seq - 1) % 40].tobytes()
    assert again.stamp_ns.tolist() == [stamps[n - 1] for n in again.seq]
    target = rt.Latest((3,), dtype, readers="many")
    seen, begin = [], time.monotonic_ns()
    put = again.replay(target, speed=4, on_put=lambda _: seen.append(target.get()))
    assert put == 30
    assert b"".join(s.value.tobytes() for s in seen) == again.values.tobytes()
    same = rt.Latest((3,), dtype, readers="many")
    stamps_again: list[int] = []
    again.replay(same, on_put=lambda _: stamps_again.append(same.get().stamp_ns))
    assert np.diff(stamps_again).tolist() == np.diff(again.stamp_ns).tolist()
    spent = seen[-1].put_ns - begin  # the first may be late
    assert spent >= (again.put_ns[-1] - again.put_ns[0]) / 4  # never faster than asked
    with pytest.raises(UnsupportedProblem):
        again.replay(rt.Latest((4,), dtype))
    with pytest.raises(FormatError):
        again.replay(target, speed=-1)


def test_record_and_replay_from_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "r.npz")
    slot = rt.Latest((2,), name=name, readers="many")
    stop: list[bool] = []

    def write() -> None:
        n = 0
        while not stop:
            n += 1
            slot.put([float(n), 0.0])
            time.sleep(0.001)

    thread = Thread(target=write)
    thread.start()
    try:
        assert main.main(["loop", "record", name, path, "--count", "20", "--json"]) == 0
    finally:
        stop.append(True)
        thread.join()
    assert json.loads(capsys.readouterr().out)["recorded"] == 20
    slot.close()
    assert main.main(["loop", "replay", name, path, "--speed", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replayed"] == 20
    assert rt.Latest.open(name).get().value[0] == Recording.load(path).values[-1, 0]
    assert main.main(["loop", "replay", f"{name}-new", path, "--speed", "0"]) == 0
    capsys.readouterr()
    assert main.main(["loop", "record", "no-such-slot", path, "--count", "1"]) == 2
    assert main.main(["loop", "record", name, path]) == 2
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    assert main.main(["loop", "replay", name, str(tmp_path / "bad.npz")]) == 2


def test_prometheus(running: Any, name: str) -> None:
    client = pytest.importorskip("prometheus_client", reason="the package prometheus-client is not installed")
    from rtaccel.realtime.prometheus import LoopCollector

    registry = client.CollectorRegistry()
    registry.register(LoopCollector([name]))
    text = client.generate_latest(registry).decode()
    cycles = float(re.search(rf'rtaccel_loop_cycles_total{{loop="{name}"}} (\S+)', text)[1])  # type: ignore[index]
    assert 5 <= cycles <= running.stats().cycles
    buckets = [float(n) for n in re.findall(rf'response_seconds_bucket{{le="[^"]+",loop="{name}"}} (\S+)', text)]
    assert buckets == sorted(buckets)
    assert 5 <= buckets[-1] <= running.stats().cycles
    assert f'rtaccel_loop_running{{loop="{name}"}} 1.0' in text
    registry = client.CollectorRegistry()
    registry.register(LoopCollector())
    assert name in client.generate_latest(registry).decode()
    with pytest.raises(FormatError):
        LoopCollector(["no-such-loop"])


def test_prometheus_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    from rtaccel.realtime.prometheus import LoopCollector

    with pytest.raises(BackendUnavailable, match="prometheus-client"):
        LoopCollector()


def test_buckets_are_log_linear() -> None:
    rng = np.random.default_rng(1)
    values = [0, 1, 31, 32, 33, 63, 64, 2**20, 2**40 - 1, *map(int, np.exp(rng.uniform(0, 27, 2000)))]
    for ns in values:
        bucket = native.loop_bucket(ns)
        assert native.loop_bucket_end(bucket) >= ns
        assert bucket == 0 or native.loop_bucket_end(bucket - 1) < ns
        assert native.loop_bucket_end(bucket) <= ns + ns / 32 + 1
    assert native.loop_bucket(-5) == 0
    assert native.loop_bucket(2**62) == native.loop_bucket(2**41)


def test_a_histogram_of_nothing() -> None:
    none = {"n": 0, "p50_ns": -1, "p99_ns": -1, "p999_ns": -1, "max_ns": 0, "sum_ns": 0, "buckets": []}
    assert np.isnan(LoopHistogram.of(none).p99_us)


def test_check_says_what_to_do(tmp_path: Path) -> None:
    found = check()
    assert [f.name for f in found][:2] == ["SCHED_FIFO", "locked memory"]
    for one in found:
        assert one.value
        assert one.next_step or one.ok is not False
        assert one.name in str(one)
    cpu, proc = tmp_path / "sys/devices/system/cpu", tmp_path / "proc/sys/kernel"
    for path, text in {
        cpu / "isolated": "3",
        cpu / "smt/active": "1",
        cpu / "cpu0/cpufreq/scaling_governor": "powersave",
        cpu / "cpu0/cpuidle/state1/latency": "170",
        cpu / "cpu0/cpuidle/state1/disable": "0",
        tmp_path / "sys/kernel/realtime": "1",
        tmp_path / "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
        proc / "sched_rt_runtime_us": "-1",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    by_name: dict[str, HostFinding] = {f.name: f for f in check(tmp_path / "sys", tmp_path / "proc")}
    ok = {
        key: by_name[key].ok
        for key in (
            "isolated cores",
            "SMT",
            "frequency governor",
            "idle states",
            "preemption",
            "transparent huge pages",
            "real-time throttling",
        )
    }
    assert ok == {
        "isolated cores": True,
        "SMT": False,
        "frequency governor": False,
        "idle states": False,
        "preemption": True,
        "transparent huge pages": False,
        "real-time throttling": True,
    }
    assert "cpupower" in by_name["frequency governor"].next_step


def test_info_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["info"]) == 0
    assert "SCHED_FIFO" in capsys.readouterr().out
    assert main.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["realtime"][0]["name"] == "SCHED_FIFO"

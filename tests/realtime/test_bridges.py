"""Bridges fill a slot; bad messages are counted, and the slot keeps its value."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.realtime.bridges.bridge import Bridge, monotonic_of
from rtaccel.realtime.bridges.iceoryx2 import Iceoryx2Bridge
from rtaccel.realtime.bridges.ros2 import Ros2Bridge
from rtaccel.realtime.bridges.zenoh import ZenohBridge


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_messages_with_and_without_a_stamp() -> None:
    slot = rt.Latest((3,))
    bridge = Bridge(slot)
    x = np.array([1, 2, 3], np.float32)
    stamp = time.monotonic_ns() - 1000
    bridge.take(stamp.to_bytes(8, "little") + x.tobytes())
    assert slot.get().stamp_ns == stamp
    bridge.take((x * 2).tobytes())
    got = slot.get()
    assert got.value.tolist() == [2, 4, 6]
    bridge.take((stamp - 5).to_bytes(8, "little") + x.tobytes())
    bridge.take(b"short")
    bridge.take((time.monotonic_ns() + 10**10).to_bytes(8, "little") + x.tobytes())
    assert (bridge.received, bridge.put, bridge.dropped, bridge.refused) == (5, 2, 1, 2)
    assert isinstance(bridge.last_error, FormatError)
    assert slot.get().seq == got.seq


def test_a_decoder_of_ones_own() -> None:
    slot = rt.Latest((2,))
    bridge = Bridge(slot, decode=lambda payload: ([float(x) for x in payload.decode().split(",")], None))
    bridge.take(b"1.5,2")
    bridge.take(b"no number")
    assert slot.get().value.tolist() == [1.5, 2]
    assert (bridge.put, bridge.refused) == (1, 1)


def test_iceoryx2() -> None:
    iox = pytest.importorskip("iceoryx2", reason="the package iceoryx2 is not installed")
    slot = rt.Latest((4,))
    service = f"rtaccel/{uuid4().hex}"
    with Iceoryx2Bridge(slot, service) as bridge:
        publisher = (
            bridge.node.service_builder(iox.ServiceName.new(service))
            .publish_subscribe(iox.Slice[ctypes.c_uint8])
            .open_or_create()
            .publisher_builder()
            .initial_max_slice_len(64)
            .create()
        )
        for n in range(10):
            data = np.full(4, n, np.float32).tobytes()
            sample = publisher.loan_slice_uninit(len(data))
            ctypes.memmove(sample.payload().as_ptr(), data, len(data))
            sample.assume_init().send()
            until(lambda n=n: bridge.received == n + 1)
        assert slot.get().value.tolist() == [9] * 4
        assert (bridge.put, bridge.refused) == (10, 0)


def test_zenoh() -> None:
    zenoh = pytest.importorskip("zenoh", reason="the package eclipse-zenoh is not installed")
    config = zenoh.Config()
    for key, value in (("mode", '"peer"'), ("scouting/multicast/enabled", "false"), ("listen/endpoints", "[]")):
        config.insert_json5(key, value)
    session = zenoh.open(config)
    try:
        slot = rt.Latest((4,))
        with ZenohBridge(slot, "rtaccel/test", session=session) as bridge:
            for n in range(10):
                session.put("rtaccel/test", np.full(4, n, np.float32).tobytes())
                until(lambda n=n: bridge.received == n + 1)
            session.put("rtaccel/test", b"bad")
            until(lambda: bridge.refused == 1)
        assert slot.get().value.tolist() == [9] * 4
    finally:
        session.close()


class FakeNode:
    """As much of an rclpy node as the bridge touches."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}

    def create_subscription(self, message: Any, topic: str, callback: Any, qos: Any) -> str:
        self.callbacks[topic] = callback
        return topic

    def destroy_subscription(self, subscription: str) -> None:
        del self.callbacks[subscription]


def test_ros2() -> None:
    slot, node = rt.Latest((2,)), FakeNode()
    bridge = Ros2Bridge(slot, node, object, "/joints", lambda m: np.array(m.position, np.float32))
    wall = time.time_ns() - 3600 * 10**9
    stamp = SimpleNamespace(sec=wall // 10**9, nanosec=wall % 10**9)
    node.callbacks["/joints"](SimpleNamespace(header=SimpleNamespace(stamp=stamp), position=[1.0, 2.0]))
    got = slot.get()
    assert got.value.tolist() == [1, 2]
    assert abs(got.stamp_ns - monotonic_of(wall)) < 60 * 10**9  # the two clocks are read one after the other
    node.callbacks["/joints"](SimpleNamespace(position=[3.0, 4.0]))
    node.callbacks["/joints"](SimpleNamespace(position=[3.0]))
    node.callbacks["/joints"](SimpleNamespace())
    assert (bridge.received, bridge.put, bridge.refused) == (4, 2, 2)
    bridge.close()
    assert node.callbacks == {}
    with pytest.raises(FormatError):
        Ros2Bridge(slot, object(), object, "/x", lambda m: m)


@pytest.mark.parametrize(("make", "module"), [(Iceoryx2Bridge, "iceoryx2"), (ZenohBridge, "zenoh")])
def test_without_the_package(make: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == module:
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(BackendUnavailable, match=r"rtaccel\[realtime\]"):
        make(rt.Latest((2,)), "key")

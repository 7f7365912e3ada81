"""A slot filled from an iceoryx2 service (package `iceoryx2`, extra `realtime`)."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from rtaccel.realtime.bridges.bridge import Bridge, Decode, library
from rtaccel.realtime.latest import Latest


class Iceoryx2Bridge(Bridge):
    """Subscribes to a publish-subscribe service of byte slices, and puts each message into the slot. As Bridge otherwise.

    service: its name. poll_us: between two looks: a look costs 0.2 us, and waking by an event from Python far more than it gains.
    node: an iceoryx2 node; None: one of its own. `with` starts and stops the thread that looks; `poll` looks in this one.

    Raises BackendUnavailable without the package.
    """

    def __init__(
        self, slot: Latest, service: str, decode: Decode | None = None, poll_us: float = 100, node: Any = None
    ) -> None:
        super().__init__(slot, decode)
        iox = library("iceoryx2", "iceoryx2", "pip install 'rtaccel[realtime]'")
        self.node = node or iox.NodeBuilder.new().create(iox.ServiceType.Ipc)
        self._service = (
            self.node.service_builder(iox.ServiceName.new(service))
            .publish_subscribe(iox.Slice[ctypes.c_uint8])
            .open_or_create()
        )
        self._subscriber = self._service.subscriber_builder().create()
        self._poll_s = poll_us * 1e-6
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self) -> int:
        """Takes every message that is there; how many."""
        count = 0
        while (sample := self._subscriber.receive()) is not None:
            payload = sample.payload()
            self.take(ctypes.string_at(payload.as_ptr(), payload.len()))
            count += 1
        return count

    def __enter__(self) -> Iceoryx2Bridge:
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="rtaccel-iceoryx2", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._poll_s):
            self.poll()

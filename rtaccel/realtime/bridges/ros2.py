"""A slot filled from a ROS 2 topic: on an rclpy node that the user has; rclpy itself comes with ROS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.realtime.bridges.bridge import Bridge, monotonic_of
from rtaccel.realtime.latest import Latest


class Ros2Bridge(Bridge):
    """Subscribes to a topic, and puts what `convert` makes of each message into the slot.

    node: an rclpy node. message: the type of the topic. convert: from a message to a value of the slot.
    qos: depth of the queue, or a QoS profile; 1 keeps the newest.

    The stamp is that of the message's header, of the wall clock, brought to `time.monotonic_ns()`; without a header, or with
    simulated time (`use_sim_time`, ros_time=True), it is the arrival.
    """

    def __init__(
        self,
        slot: Latest,
        node: Any,
        message: Any,
        topic: str,
        convert: Callable[[Any], Any],
        qos: Any = 1,
        ros_time: bool = False,
    ) -> None:
        super().__init__(slot)
        if not hasattr(node, "create_subscription"):
            raise FormatError("Ros2Bridge", f"node of type {type(node).__name__}", "an rclpy node", "Pass the node.")
        self._node, self._convert, self._ros_time = node, convert, ros_time
        self._subscription = node.create_subscription(message, topic, self._received, qos)

    def _received(self, message: Any) -> None:
        try:
            value = self._convert(message)
            header = None if self._ros_time else getattr(message, "header", None)
            stamp = None if header is None else monotonic_of(header.stamp.sec * 1_000_000_000 + header.stamp.nanosec)
        except Exception as error:
            self.received += 1
            self.refused += 1
            self.last_error = error
            return
        self.take_value(value, stamp)

    def close(self) -> None:
        self._node.destroy_subscription(self._subscription)

"""The other machine: who answers frames, who asks, and what carries them. UDP is in the standard library, the rest in extras."""

from rtaccel.serve.remote.endpoint import Endpoint, EndpointStats
from rtaccel.serve.remote.remote import Remote, RemoteStats, TimedOut
from rtaccel.serve.remote.transport import Client, Inside

__all__ = ["Client", "Endpoint", "EndpointStats", "Inside", "Remote", "RemoteStats", "TimedOut"]

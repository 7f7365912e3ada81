"""What a network of the zoo is, and how one is picked by name."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bench.zoo.packages import prepare

DOMAINS = ("control", "timeseries", "audio", "vision", "transformers", "physics", "finance", "biosignals")
"""One file of `networks/` each."""

Made = tuple[nn.Module, tuple[Any, ...]]
"""A network and the arguments of one call, batch 1."""


class NotInstalled(Exception):
    """The package of a network is missing; the text says which."""


@dataclass(frozen=True)
class Entry:
    """One network. package: its distribution, as pip names it. make: builds it and its inputs, importing the package then.

    wrapped: what a wrapper around it does, such as picking one output; empty where the network is called directly.
    also: further distributions that `make` imports.
    """

    name: str
    package: str
    make: Callable[[], Made]
    wrapped: str = ""
    domain: str = ""
    also: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in (self.package, *self.also) if version(name) is None]

    def build(self) -> Made:
        """The network in eval mode with weights drawn from seed 0, and its inputs.

        Raises NotInstalled, and what the package raises.
        """
        if missing := self.missing():
            raise NotInstalled(f"not installed: {', '.join(missing)}")
        prepare()
        torch.manual_seed(0)
        model, inputs = self.make()
        model.eval()
        if any(is_lazy(p) for p in model.parameters()):
            with torch.no_grad():
                model(*inputs)
        draw_constants(model)
        return model.requires_grad_(False), inputs


@torch.no_grad()
def draw_constants(model: nn.Module) -> None:
    """Draws parameters that start as zeros, and the statistics of batch norms, which would hide errors of what they multiply."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() and not parameter.any():
            parameter.normal_(0.0, 0.02)
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            mean.normal_(0.0, 0.1)
            variance.uniform_(0.6, 1.4)


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def entries() -> dict[str, Entry]:
    """All networks by name, domain after domain."""
    found: dict[str, Entry] = {}
    for domain in DOMAINS:
        module = importlib.import_module(f"bench.zoo.networks.{domain}")
        for entry in module.ENTRIES:
            if entry.name in found:
                raise ValueError(f"two networks are named {entry.name}")
            found[entry.name] = replace(entry, domain=domain)
    return found


def select(patterns: Sequence[str], known: Iterable[Entry]) -> list[Entry]:
    """Those whose name, package or domain matches a shell pattern; all where no pattern is given.

    Raises ValueError for a pattern that matches none.
    """
    known = list(known)
    for pattern in patterns:
        if not any(_matches(entry, pattern) for entry in known):
            raise ValueError(f"no network, package or domain matches {pattern!r}")
    return [entry for entry in known if not patterns or any(_matches(entry, pattern) for pattern in patterns)]


def _matches(entry: Entry, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in (entry.name, entry.package, entry.domain))


class Output(nn.Module):
    """A network of one input of which one output is asked for: an index into a tuple, or the name of a field or key."""

    def __init__(self, model: nn.Module, which: Any, **fixed: Any) -> None:
        """fixed: keyword arguments of every call, such as flags."""
        super().__init__()
        self.model, self.which, self.fixed = model, which, fixed

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, **self.fixed)[self.which]


class Method(nn.Module):
    """A network of one input that is called by another method than forward."""

    def __init__(self, model: nn.Module, method: str, **fixed: Any) -> None:
        super().__init__()
        self.model, self.method, self.fixed = model, method, fixed

    def forward(self, x: Tensor) -> Any:
        return getattr(self.model, self.method)(x, **self.fixed)

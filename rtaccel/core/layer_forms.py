"""Forms of a layer's weights beside their storage: pruned, or two factors of low rank. Each holds the scheme of what is left.

They stand where a scheme does, in the dict from module-name pattern to scheme, so that one dict says how every layer is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import Float32, Scheme, parse_scheme
from rtaccel.core.sparsity import Sparsity, parse_sparsity


@dataclass(frozen=True)
class LayerForm(Scheme):
    """Base class. scheme: how the weights that the form leaves are stored and multiplied; a scheme or its name."""

    scheme: Scheme | str = field(default_factory=Float32)

    def __post_init__(self) -> None:
        inner = parse_scheme(self.scheme)
        if isinstance(inner, LayerForm):
            raise FormatError(
                type(self).__name__, f"scheme={inner}", "a scheme of weights", "Take one form of a layer."
            )
        object.__setattr__(self, "scheme", inner)

    @property
    def inner(self) -> Scheme:
        """`scheme` as an object."""
        return parse_scheme(self.scheme)


@dataclass(frozen=True)
class LowRank(LayerForm):
    """A linear layer as two: y = B (A x) + bias, A [r, K] and B [N, r], of r = floor(share N K / (N + K)), at least 1.

    share: part of the layer's weights that the two have together, in 0..1.
    scheme: of both; a scheme or its name.

    With calibration data B A is nearest to the weight W in what it makes of the layer's inputs: least E |(W - B A) (x - m)|^2, m
    their mean, through the singular values of W C^(1/2), C their covariance. The bias takes up (W - B A) m. Without data it is
    nearest to W itself. A x then has the covariance 1, so that one int8 scale suits all of it. Method: the truncated SVD for a
    weighted norm (C. Eckart and G. Young, Psychometrika 1, 1936).

    Raises FormatError for a share outside of 0..1.

    >>> import torch, rtaccel as rt
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).eval()
    >>> x = torch.randn(256, 64)
    >>> fast = rt.compile(model, (x[:1],), {"0": rt.LowRank(0.5, "w8a8"), "2": "w8a8"}, calibration=[x])
    >>> fast(x[:1]).shape
    torch.Size([1, 8])
    """

    share: float = 0.5

    def __init__(self, share: float = 0.5, scheme: Scheme | str = "float32") -> None:
        object.__setattr__(self, "share", share)
        object.__setattr__(self, "scheme", scheme)
        self.__post_init__()

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.share, (int, float)) and not isinstance(self.share, bool)
        if not (number and 0 < self.share < 1):
            got = f"share={self.share!r}"
            raise FormatError("LowRank", got, "a part of the weights, above 0 and below 1", "0.5 halves them.")

    def rank(self, n: int, k: int) -> int:
        """r for a weight [N, K]."""
        return max(1, floor(self.share * n * k / (n + k)))

    def __str__(self) -> str:
        return f"rank {self.share:.0%} {self.inner}"


@dataclass(frozen=True)
class Pruned(LayerForm):
    """A linear layer whose weights are pruned to a pattern and, with calibration data, solved anew by least squares.

    pattern: `rt.BlockSparse`, `rt.Unstructured` or `rt.SemiStructured`, or its name.
    scheme: of the weights that stay; a scheme or its name.

    The weights to leave out are those of least |w| times the rms of what they multiply (Wanda, Sun et al. 2023). Those kept are
    the least squares solution for the layer's outputs on the data. The bias takes up what is lost on average. Without data the
    smallest go, and the others stay as they are. `rt.compile` then takes the fastest kernel, sparse or not.

    Raises FormatError for what is no pattern.

    >>> import torch, rtaccel as rt
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).eval()
    >>> x = torch.randn(256, 64)
    >>> fast = rt.compile(model, (x[:1],), {"0": rt.Pruned(rt.BlockSparse((16, 16), 0.5), "w8a8")}, calibration=[x])
    >>> fast(x[:1]).shape
    torch.Size([1, 8])
    """

    pattern: Sparsity | str = "unstructured"

    def __init__(self, pattern: Sparsity | str, scheme: Scheme | str = "float32") -> None:
        object.__setattr__(self, "pattern", parse_sparsity(pattern))
        object.__setattr__(self, "scheme", scheme)
        self.__post_init__()

    @property
    def sparsity(self) -> Sparsity:
        """`pattern` as an object."""
        return parse_sparsity(self.pattern)

    def __str__(self) -> str:
        return f"{self.sparsity} {self.inner}"

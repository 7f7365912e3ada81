"""Jets from a seed: particles of five kinds of jet, and the sixteen features that a trigger makes of them.

The events are simulated by rules of thumb, not by a physics generator: prongs from the decay of a boson or a top quark with
its mass, radiation around each prong, more of it for gluons. The features are those of jet substructure, by their formulas
(Larkoski, Salam and Thaler, Energy Correlation Functions for Jet Substructure, JHEP 2013; Moult, Necib and Thaler, New Angles
on Energy Correlation Functions, JHEP 2016).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

KINDS = ("gluon", "quark", "W", "Z", "top")
MASSES = (0.0, 0.0, 80.4, 91.2, 172.8)
PARTICLES = 16
"""Of a jet, those with the most momentum."""

FEATURES = 16
TRIPLES = 12
RADIUS = 0.8


class Jets(NamedTuple):
    """features [n, 16]; particles [n, 16, 3]: share of the momentum, and place in eta and phi from the axis; kind [n]."""

    features: F32
    particles: F32
    kind: NDArray[np.int64]


def simulate(count: int, seed: int) -> Jets:
    """So many jets, kinds in turn."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(count) % len(KINDS))
    z, eta, phi, *rest = _particles(kind, rng)
    found = [features(*(part[at : at + 2000] for part in (z, eta, phi, *rest))) for at in range(0, count, 2000)]
    return Jets(np.concatenate(found), np.stack([z, eta, phi], 2).astype(np.float32), kind.astype(np.int64))


def _particles(kind: NDArray[np.intp], rng: np.random.Generator) -> tuple[F64, F64, F64, F64, NDArray[np.int64]]:
    """(z, eta, phi) of the hardest particles, [n, 16] each, momentum [n] in GeV and multiplicity [n]."""
    n = len(kind)
    momentum = rng.uniform(800, 1200, n)
    mass = np.array(MASSES)[kind] * rng.normal(1, 0.03, n)
    prongs = np.where(kind < 2, 1, np.where(kind == 4, 3, 2))
    share, where = np.zeros((n, 3)), np.zeros((n, 3, 2))
    share[:, 0] = 1
    split, turn = rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0, 2 * np.pi, (n, 2))
    for step, heavy in ((0, kind >= 2), (1, kind == 4)):  # a top decays to a W and a quark, and the W to two
        of = mass if step == 0 else np.full(n, MASSES[2])
        z = split[:, step]
        parent = share[:, 0]
        angle = np.minimum(of / (np.sqrt(z * (1 - z)) * momentum * np.maximum(parent, 1e-3)), 0.7)
        direction = np.stack([np.cos(turn[:, step]), np.sin(turn[:, step])], 1) * angle[:, None]
        new = step + 1
        share[heavy, new] = ((1 - z) * parent)[heavy]
        where[heavy, new] = (where[:, 0] + z[:, None] * direction)[heavy]
        where[heavy, 0] -= ((1 - z)[:, None] * direction)[heavy]
        share[heavy, 0] = (z * parent)[heavy]
    each = 40
    radiated = np.where(kind == 0, 1.6, 1.0)[:, None]  # gluons radiate more
    prong = (rng.random((n, each)) * prongs[:, None]).astype(int)
    soft = rng.gamma(0.35, 1.0, (n, each)) / radiated
    kept = rng.random((n, each)) < np.where(kind == 0, 0.95, 0.5 + 0.1 * prongs)[:, None]
    z = share[np.arange(n)[:, None], prong] * soft * kept
    spread = 0.09 * radiated * rng.gamma(1.0, 1.0, (n, each)) / (1 + 3 * soft)
    around = rng.uniform(0, 2 * np.pi, (n, each))
    place = where[np.arange(n)[:, None], prong]
    eta, phi = place[..., 0] + spread * np.cos(around), place[..., 1] + spread * np.sin(around)
    z *= 1 + 0.1 * rng.normal(size=z.shape)  # what a calorimeter does
    eta, phi = (a + 0.015 * rng.normal(size=z.shape) for a in (eta, phi))
    z = np.where((np.hypot(eta, phi) < RADIUS) & (z > 0.002), z, 0)
    multiplicity = (z > 0).sum(1)
    order = np.argsort(-z, axis=1)[:, :PARTICLES]
    z, eta, phi = (np.take_along_axis(a, order, 1) for a in (z, eta, phi))
    total = np.maximum(z.sum(1, keepdims=True), 1e-9)
    z = z / total
    eta, phi = (a - (z * a).sum(1, keepdims=True) for a in (eta, phi))
    return z, np.where(z > 0, eta, 0), np.where(z > 0, phi, 0), momentum, multiplicity


def features(z: F64, eta: F64, phi: F64, momentum: F64, multiplicity: NDArray[np.int64]) -> F32:
    """[n, 16]: sum z log z; e2 for beta 0, 1, 2; C2, D2, M2 and N2 for beta 1 and 2; the same ratio as D2 with beta 1 above 2 and
    with beta 1/2; mass; multiplicity. D2 and its like as logs. Three-particle sums run over the hardest twelve."""
    tiny = np.float32(1e-12)
    z, eta, phi = (a.astype(np.float32) for a in (z, eta, phi))
    r = np.hypot(eta[:, :, None] - eta[:, None], phi[:, :, None] - phi[:, None])
    first, second = np.triu_indices(z.shape[1], 1)
    pairs, near = z[:, first] * z[:, second], r[:, first, second]
    i, j, k = np.array([(a, b, c) for a in range(TRIPLES) for b in range(a) for c in range(b)]).T
    triple = z[:, i] * z[:, j] * z[:, k]
    a, b, c = r[:, i, j], r[:, i, k], r[:, j, k]
    least, most = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    products = (least, least * (a + b + c - least - most), a * b * c)

    def e2(beta: float) -> F32:
        return (pairs * near**beta).sum(1) + tiny

    def angles(count: int, beta: float) -> F32:
        """The correlation of three particles with the smallest so many of the angles between them."""
        return (triple * products[count - 1] ** beta).sum(1) + tiny

    two = {beta: e2(beta) for beta in (0.5, 1.0, 2.0)}
    columns = [(z * np.log(z + tiny)).sum(1), e2(0), two[1.0], two[2.0]]
    for beta in (1.0, 2.0):
        columns += [
            angles(3, beta) / two[beta] ** 2,
            np.log(angles(3, beta) / two[beta] ** 3),
            angles(1, beta) / two[beta],
            angles(2, beta) / two[beta] ** 2,
        ]
    columns.append(np.log(angles(3, 1.0) / two[2.0] ** 1.5))
    columns.append(np.log(angles(3, 0.5) / two[0.5] ** 3))
    columns += [momentum * np.sqrt(two[2.0]), multiplicity]
    return np.stack(columns, 1).astype(np.float32)

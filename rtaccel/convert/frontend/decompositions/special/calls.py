"""Which call is taken apart by which function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.special import bessel, errors, exponents, modified_bessel
from rtaccel.convert.frontend.decompositions.special.gamma import polygamma
from rtaccel.convert.frontend.decompositions.special.orthogonal import ORTHOGONAL
from rtaccel.convert.frontend.decompositions.special.polynomials import of_real

SPECIAL: dict[Any, Callable[..., Any]] = {
    **{
        call: of_real(function)
        for call, function in {
            aten.special_erfcx.default: errors.erfcx,
            aten.special_ndtr.default: errors.ndtr,
            aten.special_log_ndtr.default: errors.log_ndtr,
            aten.special_ndtri.default: errors.ndtri,
            aten.erfinv.default: errors.erfinv,
            aten.special_erfinv.default: errors.erfinv,
            aten.i0.default: modified_bessel.i0,
            aten.special_i0.default: modified_bessel.i0,
            aten.special_i0e.default: modified_bessel.i0e,
            aten.special_i1.default: modified_bessel.i1,
            aten.special_i1e.default: modified_bessel.i1e,
            aten.special_modified_bessel_i0.default: modified_bessel.i0,
            aten.special_modified_bessel_i1.default: modified_bessel.i1,
            aten.special_modified_bessel_k0.default: modified_bessel.k0,
            aten.special_modified_bessel_k1.default: modified_bessel.k1,
            aten.special_scaled_modified_bessel_k0.default: modified_bessel.scaled_k0,
            aten.special_scaled_modified_bessel_k1.default: modified_bessel.scaled_k1,
            aten.special_bessel_j0.default: bessel.j0,
            aten.special_bessel_j1.default: bessel.j1,
            aten.special_bessel_y0.default: bessel.y0,
            aten.special_bessel_y1.default: bessel.y1,
            aten.special_spherical_bessel_j0.default: bessel.spherical_j0,
        }.items()
    },
    **ORTHOGONAL,
    aten.frexp.Tensor: exponents.frexp,
    aten.nextafter.default: exponents.nextafter,
    **dict.fromkeys(
        (aten.polygamma.default, aten.special_polygamma.default),
        lambda n, x: of_real(lambda real: polygamma(n, real))(x),
    ),
}
"""By the call that is taken apart."""

"""Strided expression in plain torch."""

from __future__ import annotations

from rtaccel.core.registry import register_impl
from rtaccel.kernels._expression.plain import implementation

register_impl(implementation("strided_expression"))

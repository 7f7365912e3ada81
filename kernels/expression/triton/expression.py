"""Expressions over rows that lie alike, in Triton: kernels/_general/triton_expression.py."""

from __future__ import annotations

from rtaccel.core.registry import register_impl
from rtaccel.kernels._general.triton_expression import implementation

register_impl(implementation("expression"))

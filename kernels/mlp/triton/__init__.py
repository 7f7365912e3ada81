"""Whole MLPs in one Triton kernel: launched, persistent, and partitioned among programs."""

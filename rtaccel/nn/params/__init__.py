"""The parameters that each scheme stores for a layer: what a state dict holds, how it is checked, and how it is quantized.

A module of `rtaccel.nn` keeps one of these records; `plan` packs it.
"""

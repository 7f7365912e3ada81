"""Layers that train with fake quantization: their weights are plain float32 parameters, their results those of the integers.

`rt.prepare_qat_` puts them in place, `rt.compile` and `rt.stream` take their numbers as they are.
"""

"""Triton kernels of the general stages: their source is made for each stage, from its program and its strides.

Data: a stage -> text of a kernel (triton_expression.py, ...) -> a `triton.jit` function, one for each text (triton_source.py) ->
a Specialisation, which is launched, built ahead and checked like that of a kernel in a file.
"""

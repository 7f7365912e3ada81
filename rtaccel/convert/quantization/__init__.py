"""How a layer is computed under a scheme, and the ranges of what becomes int8: calibration, observers, equalization.

Data: nodes + scheme + calibration batches -> parameters of each layer.
"""

"""Networks out of public packages that nobody here wrote, compiled as they come and measured beside other runtimes.

python -m bench.zoo [survey | run | page] [NAME PATTERN ...]
"""

"""What the operators `expression` and `strided_expression` share: functions, programs, and how they are joined and run.

A program (program.py) is scheduled into a chain over one accumulator (chain.py), which C++ walks (chain.h, stage.h).
"""

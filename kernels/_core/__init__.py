"""The C++ runtime of a plan: C ABI (rtaccel.h), stages, plans, threads, instruction sets, the host's mailbox.

Data: stages with packed weights -> a plan of one native call. cpu.py builds plans and finds the kernels that C++ declared.
"""

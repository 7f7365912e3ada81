"""The C++ runtime of a plan: C ABI (rta_plan.h), stages, plans, threads, instruction sets, the host's mailbox.

Data: stages with packed weights -> a plan of one native call. cpu.py builds plans and finds the kernels that C++ declared.
"""

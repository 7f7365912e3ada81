"""Passes over a graph of nodes: epilogues fused, dead rows dropped, sparse forms chosen, stages made.

Data: OpGraph -> OpGraph, and in the end (emit) a program of stages.
"""

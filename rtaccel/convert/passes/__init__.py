"""Passes over a graph of nodes: epilogues fused, dead rows dropped, sparse forms chosen, stages made.

Data: DraftGraph -> DraftGraph, and in the end (emit) a program of stages.
"""

"""Compiled models as ONNX files: what a graph is written with, and the form of each operator (`forms/`)."""

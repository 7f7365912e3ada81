"""The stages of each operator as ONNX nodes, a file for each family."""

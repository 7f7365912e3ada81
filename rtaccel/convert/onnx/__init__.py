"""ONNX files as plain torch modules: what is read, and one table of operators with a file per family (`ops/`)."""

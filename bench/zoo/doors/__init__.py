"""Each network of the zoo through every way that a user goes: files, ONNX, int8, and inputs as they come in the world."""

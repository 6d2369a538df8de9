"""ONNX files of the user with named states."""

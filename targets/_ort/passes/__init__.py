"""Graph passes for ONNX Runtime."""

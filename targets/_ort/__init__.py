"""ONNX Runtime: sessions and graph passes of the cpu and cuda targets."""

"""Tracing a torch module to ONNX, and what is read with transformers."""

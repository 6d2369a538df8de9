"""Trace torch modules to ONNX, and read models and tokenizers with transformers."""

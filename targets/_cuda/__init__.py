"""CUDA: half precision, device memory, block-quantized weights."""

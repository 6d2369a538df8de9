"""Decoder-only language models without a file of their own: traced from transformers."""

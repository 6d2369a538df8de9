"""Decoder-only language models, built without torch."""

"""Recipes of quantization and the transformations that carry them out."""

"""Quantization: recipes, and the transformations that apply them to graphs."""

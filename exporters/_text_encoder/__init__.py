"""Text encoders: traced, with their tokenizer and sentence-transformers settings."""

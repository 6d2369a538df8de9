"""The user's cache: verified digests, compiled models and measured speeds."""

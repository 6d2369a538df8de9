"""What this machine remembers between runs: digests, compiled models and measured speeds."""

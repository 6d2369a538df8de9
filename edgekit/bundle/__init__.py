"""The bundle on disk: its manifest, what its files may hold, and how it is published whole or not at all."""

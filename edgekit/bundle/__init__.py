"""The bundle on disk: its manifest, the checks of its files, and atomic publishing."""

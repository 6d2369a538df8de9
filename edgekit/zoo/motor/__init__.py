"""zoo:motor, a GRU that tells from a motor's telemetry, sample by sample, whether and how it fails."""

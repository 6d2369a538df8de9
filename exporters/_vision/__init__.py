"""Vision models: traced image encoders, and the settings of image processors."""

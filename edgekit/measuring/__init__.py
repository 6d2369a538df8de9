"""What a benchmark does with a device: forecasts, processes, clocks, memory, energy, and the device itself."""

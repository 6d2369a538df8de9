"""The parts of `edgekit.bench`: tests, processes, timing, energy, memory, environment."""

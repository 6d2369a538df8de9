"""zoo:sunspots, an LSTM that says how many sunspots the next year will bring."""

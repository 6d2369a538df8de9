"""zoo:tide, an LSTM that says how high the water will be in each of the next six hours, and how surely."""

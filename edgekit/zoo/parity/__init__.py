"""zoo:parity, a BERT that reads numbers in words or digits: odd or even, and which of them are the same."""

"""Commands whose options fill a file of their own; `edgekit.cli` has the others, and the group of all."""

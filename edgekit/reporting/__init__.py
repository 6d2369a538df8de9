"""What is told of measurements: files, tables, the page and the comparison. `edgekit.report` is its front."""

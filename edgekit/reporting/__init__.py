"""The parts of `edgekit.report`: the record, its files, tables, HTML page and comparison."""

"""Limits on everything that EdgeKit accepts from untrusted files and callers.

Every limit is here, with its unit, so that the sum of them can be seen. Each is far above what a real model needs.
"""

from __future__ import annotations

# The manifest, edgekit.json
MANIFEST_BYTES = 1 << 20
JSON_DEPTH = 32  # levels of objects and lists
JSON_INTEGER = 2**63 - 1  # largest absolute value
FILES = 10_000  # in a bundle's folder
CHECKSUMS_BYTES = 16 << 20  # edgekit.sha256

# Settings, in the manifest
SETTING_CHARACTERS = 1 << 16  # of a name, a label, a prompt
SETTING_ITEMS = 1 << 17  # of a list of names, labels or numbers
SETTING_NUMBER = 1e30  # largest absolute value
SETTING_DEVIATION = 1e-30  # the smallest
CONTEXT = 1 << 26  # tokens

# Names that a file gives for other files
PATH_BYTES = 1024  # as UTF-8
PATH_PART_BYTES = 255  # as UTF-8; what Linux file systems allow

# An .onnx file, its weights aside
GRAPH_FILE_BYTES = 2**31 - 1  # protobuf's own limit
GRAPH_FIELDS = 10_000_000  # protobuf fields looked at, which bounds the time
GRAPH_NODES = 200_000  # subgraphs and expanded functions included
GRAPH_TENSORS = 200_000  # initializers and constants
SUBGRAPH_DEPTH = 16
NAME_BYTES = 4096  # of a tensor, an operator, a metadata key
TENSOR_RANK = 64  # numpy's own limit
TENSOR_DIM = 2**31  # elements along one axis
SPARSE_ELEMENTS = 1 << 26  # of a sparse tensor, once it is dense
CONSTANT_ELEMENTS = 1 << 14  # of a constant input that the user gives

# Arrays: known answers, saved states, layers
ARRAYS_BYTES = 4 << 30  # of a file
ARRAYS = 100_000  # in a file
ARRAY_HEADER_BYTES = 4096

# Engines
THREADS = 1024  # of one engine
REPEATS = 2**31 - 1  # tokens, items or runs that a benchmark takes

# Text
TOKENIZER_BYTES = 256 << 20
VOCABULARY = 2_000_000  # tokens
PROMPT_BYTES = 8 << 20  # as UTF-8
TOKENIZER_GROWTH = 64  # times as long as a text may become by its tokenizer's steps
WORDPIECE_CHARACTERS = 256  # of a word that WordPiece takes apart: the work grows with their third power
UNIGRAM_CHARACTERS = 256  # of a token of a Unigram model: the work on each character of a text grows with it
SPECIAL_TOKENS = 1024  # around one text or pair

# Generating
NEW_TOKENS = 1 << 20  # that one answer may have
STOP_STRINGS = 16  # in one call
STOP_STRING_BYTES = 256  # as UTF-8, each

# A chat template
TEMPLATE_BYTES = 256 << 10  # as UTF-8
TEMPLATE_DEPTH = 150  # levels of its tree, and of calls while it runs
TEMPLATE_BRANCHES = 1000  # of one `if`
TEMPLATE_STEPS = 1_000_000  # statements and expressions that one rendering computes
TEMPLATE_WORK = 64 << 20  # characters, and 16 for an item, that one rendering reads and makes
TEMPLATE_INTEGER_BITS = 1024  # of a number that it computes
TEMPLATE_OUTPUT = 4 << 20  # characters

# Series
SERIES_STEPS = 1 << 24  # samples of one series, or of a gap in a stream, at the model's rate
LINE_BYTES = 1 << 20  # of a line of CSV

# A file of measurements
RECORD_BYTES = 64 << 20
RECORD_ROWS = 10_000

# An export: what a stage may take in seconds, unless --time-limit says otherwise
STAGE_SECONDS = 15 * 60
STAGE_SECONDS_PER_GB = 20 * 60  # of weights, besides

# What a user gives to read
CALIBRATION_BYTES = 64 << 20  # a file of texts or series
SAMPLE_LETTERS = 64 << 10  # of a text in it: a bundle keeps some of them
INPUT_LETTERS = 1 << 30  # of texts on stdin, in all
INPUT_LINES = 10_000_000

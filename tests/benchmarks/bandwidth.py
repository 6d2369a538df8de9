"""Bytes a second that so many threads read from this machine's memory.

    python tests/benchmarks/bandwidth.py 2

What bounds a decoder: every token reads every weight. A process of its own, as it holds a gigabyte.
"""

from __future__ import annotations

import argparse

from edgekit.measuring.bandwidth import read_bandwidth

SECONDS = 2

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("threads", type=int)
    print(read_bandwidth(parser.parse_args().threads, SECONDS))

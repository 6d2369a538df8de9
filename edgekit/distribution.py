"""The name of EdgeKit's distribution, and the commands that install it.

On the package index the name `edgekit` belongs to another project with the same import name, so pip knows this one as
`edgekit-onnx`. Every hint, `edgekit doctor` and README take the name from here; pyproject.toml states it once more.
"""

from __future__ import annotations

NAME = "edgekit-onnx"
OTHER_PROJECT = "edgekit"  # a Cloudflare Workers SDK that unpacks into the same folder
TORCH = "torch==2.13.0"  # first and alone: the export extra would otherwise bring several GB of CUDA packages


def install(*extras: str) -> str:
    """The pip command for EdgeKit with these extras; the packages of `export` need torch before them."""
    wanted = f"'{NAME}[{','.join(extras)}]'" if extras else NAME
    torch = f"pip install {TORCH}, then " if "export" in extras else ""
    return f"{torch}pip install {wanted}"

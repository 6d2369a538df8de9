"""Replace torch's recurrent modules by equal ones that are traced to one ONNX node per layer.

torch.export goes through such a module step by step, as soon as it has several layers or was traced before in the
process: then the number of steps is fixed, or every step written out. What these modules compute is nothing; only the
tracer can use them, and the graph is held against the real ones. A projection, which ONNX has not, stays torch's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .weights import ORDER

if TYPE_CHECKING:
    import torch

VERSION = 22  # of the operators


def as_nodes(module: torch.nn.Module) -> torch.nn.Module:
    """Every recurrent module inside, or the module itself, in place."""
    import torch

    for name, child in list(module.named_children()):
        setattr(module, name, as_nodes(child))
    known = isinstance(module, (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM))
    return _layers(module) if known and not getattr(module, "proj_size", 0) else module


def _layers(real: Any) -> torch.nn.Module:
    import torch

    cell, ways = real.mode.partition("_")[0], 2 if real.bidirectional else 1
    several = cell == "LSTM"

    class Layers(torch.nn.Module):
        """Takes and gives what the real one does, but for packed sequences and series without a batch."""

        def __init__(self) -> None:
            super().__init__()
            for layer in range(real.num_layers):
                for name, table in _tables(real, cell, [f"l{layer}{way}" for way in ("", "_reverse")[:ways]]).items():
                    self.register_buffer(f"{name}_{layer}", table)

        def forward(self, x: torch.Tensor, states: Any = None) -> Any:
            x = x.transpose(0, 1) if real.batch_first else x
            if states is None:
                zero = x.new_zeros(real.num_layers * ways, x.shape[1], real.hidden_size)
                states = (zero, zero) if several else zero
            found: list[tuple[torch.Tensor, ...]] = []
            for layer in range(real.num_layers):
                into = [state[layer * ways : (layer + 1) * ways] for state in (states if several else (states,))]
                weights = [getattr(self, f"{name}_{layer}", None) for name in ("inputs", "states", "biases")]
                steps, *last = _node(real, cell, x, weights, into)
                x = steps.permute(0, 2, 1, 3).flatten(2)
                found.append(tuple(last))
            after = tuple(torch.cat(each) for each in zip(*found))
            return x.transpose(0, 1) if real.batch_first else x, after if several else after[0]

    return Layers()


def _tables(real: Any, cell: str, suffixes: list[str]) -> dict[str, torch.Tensor]:
    """One layer's weights, (ways, gates x hidden, …), in ONNX's order."""
    import torch

    def gates(name: str) -> torch.Tensor:
        tables = [getattr(real, f"{name}_{suffix}").detach().chunk(len(ORDER[cell])) for suffix in suffixes]
        return torch.stack([torch.cat([table[gate] for gate in ORDER[cell]]) for table in tables])

    found = {"inputs": gates("weight_ih"), "states": gates("weight_hh")}
    return found | ({"biases": torch.cat([gates("bias_ih"), gates("bias_hh")], 1)} if real.bias else {})


def _node(
    real: Any, cell: str, x: torch.Tensor, weights: list[torch.Tensor | None], into: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """(time, ways, batch, hidden), then each state (ways, batch, hidden)."""
    import torch

    ways = into[0].shape[0]
    attributes: dict[str, Any] = {"hidden_size": real.hidden_size, "direction": ("forward", "bidirectional")[ways - 1]}
    if cell == "GRU":
        attributes["linear_before_reset"] = 1
    if real.mode == "RNN_RELU":
        attributes["activations"] = ["Relu"] * ways
    made: tuple[torch.Tensor, ...] = torch.onnx.ops.symbolic_multi_out(
        cell,
        [x, *weights, None, *into],
        attributes,
        dtypes=[x.dtype] * (1 + len(into)),
        shapes=[[x.shape[0], ways, x.shape[1], real.hidden_size], *([[*into[0].shape]] * len(into))],
        version=VERSION,
    )
    return made

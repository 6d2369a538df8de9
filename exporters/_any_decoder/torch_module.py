"""Trace transformers' own decoder with explicit caches, and record transformers' logits as its proof.

Knows no architecture. Two places are changed while the graph is traced: how a mask is made (from the positions of
tokens, so that a cache may have holes) and how attention is computed (one Attention node). The answers that prove the
graph are transformers' own, before anything is changed. Runs in a worker process.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.core import Source
from edgekit.errors import UnsupportedError
from edgekit.source import weights

from .._decoder.attention import HIDDEN
from .._trace import transformers_model
from .._trace.trace import OPSET

if TYPE_CHECKING:
    import torch

OURS = "edgekit"  # the name of our attention among transformers' implementations
INPUTS = ("input_ids", "position_ids", "attention_mask", "logit_positions")
SIZES = {"batch": 3, "sequence": 7, "past": 5, "outputs": 2}  # of the traced sample: all different, none 0 or 1


@dataclass(frozen=True)
class Cache:
    """What one layer keeps of a token."""

    heads: int
    key: int  # numbers a head
    value: int


@dataclass
class Call:
    """The call that is being traced: what our masks and our attention read of it, as transformers hands them less."""

    queries: Any = None  # (batch, 1, sequence, 1): the position of each new token
    keys: Any = None  # (batch, 1, 1, total): the position of each token in the cache
    there: Any = None  # (batch, 1, 1, total): whether that slot holds a token
    cache: Any = None
    masks: list[tuple[Any, Any, int | None]] = field(default_factory=list)  # made: with its rule, and a window's size

    def begin(self, positions: Any, mask: Any, cache: Any) -> None:
        self.queries, self.keys = positions[:, None, :, None], (mask.cumsum(1) - 1)[:, None, None, :]
        self.there, self.cache = mask.bool()[:, None, None, :], cache
        self.masks.clear()


def load(source: Source) -> Any:
    """The model in float32 as transformers runs it. Raises BundleError where weights are missing or do not fit."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    config = transformers_model.config_of(source)
    told = {} if asks_for_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]) else {"attn_implementation": "eager"}
    model, missing = transformers_model.load(AutoModelForCausalLM, source, config, **told)
    if missing:
        raise weights.missing(missing[0], weights.names(source.folder))
    return model


def asks_for_attention(model_class: type) -> bool:
    """Whether a model takes its attention from transformers' table of ways to compute it."""
    return hasattr(sys.modules[model_class.__module__], "ALL_ATTENTION_FUNCTIONS")


def caches(model: Any) -> list[Cache]:
    """What each layer keeps. Raises UnsupportedError where that is not keys and values of every token."""
    import torch
    from transformers import DynamicCache

    given = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=given, use_cache=True)
    found = [(layer.keys, layer.values) for layer in given.layers]
    if not found or any(each is None or each.ndim != 4 or each.shape[2] != 3 for pair in found for each in pair):
        raise UnsupportedError(
            f"{model.config.model_type} does not keep keys and values of every token in every layer",
            hint="`edgekit list architectures` shows what there is",
        )
    return [Cache(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in found]


def answers(model: Any, row: Sequence[int], counts: Sequence[int]) -> list[Any]:
    """transformers' own logits for `row`, fed in pieces of `counts` tokens with its own cache: (count, vocabulary)."""
    import torch
    from transformers import DynamicCache

    given, ids, done, found = DynamicCache(config=model.config), torch.tensor([row]), 0, []
    with torch.inference_mode():
        for count in counts:
            piece, seen = ids[:, done : done + count], torch.ones((1, done + count), dtype=torch.int64)
            told = model(input_ids=piece, attention_mask=seen, past_key_values=given, use_cache=True)
            found.append(told.logits[0].float().numpy())
            done += count
    return found


def program(model: Any, held: Sequence[Cache], context: int) -> Any:
    """The decoder as a torch.onnx.ONNXProgram whose ports are those of a built one. Raises UnsupportedError."""
    import torch

    batch, sequence, past, outputs = SIZES.values()
    generator = torch.Generator().manual_seed(0)
    sample = (
        torch.randint(0, 3, (batch, sequence), generator=generator),
        torch.arange(past, past + sequence).expand(batch, sequence).contiguous(),
        torch.ones((batch, past + sequence), dtype=torch.int64),
        torch.randint(0, sequence, (batch, outputs), generator=generator),
        *(torch.randn((batch, one.heads, past, dim)) for one in held for dim in (one.key, one.value)),
    )
    states = [f"{number}.{what}" for number in range(len(held)) for what in ("key", "value")]
    flat = {0: "batch", 1: "sequence"}
    fed = (flat, flat, {0: "batch", 1: "total"}, {0: "batch", 1: "outputs"})
    try:
        with ours(model) as call:
            made = torch.onnx.export(
                wrap(model, call),
                sample,
                dynamo=True,
                opset_version=OPSET,
                input_names=[*INPUTS, *(f"past_key_values.{state}" for state in states)],
                output_names=["logits", *(f"present.{state}" for state in states)],
                dynamic_shapes=(*fed, tuple({0: "batch", 2: "past"} for _ in states)),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.UserError) as error:
        raise UnsupportedError(
            f"torch.onnx could not trace {model.config.model_type}",
            hint="the text under `cause` names the line and the op; control flow that depends on data cannot be traced",
            cause=str(error.__cause__ or error)[:4000],
        ) from error
    check_lengths(made, context)
    name_attention(made.model, [meaning(rule, size) for _, rule, size in call.masks])
    return made


def check_lengths(program: Any, context: int) -> None:
    """Raises UnsupportedError where the model asked how long its input is, and went the way of short ones.

    The tracer follows one way only. It notes up to which length that holds, and says nothing.
    """
    ends = [bounds.upper for bounds in program.exported_program.range_constraints.values() if bounds.upper < context]
    if ends:
        raise UnsupportedError(
            f"this model computes something else for inputs longer than {min(ends)}, which the tracer does not follow",
            hint="choose a model of another architecture",
        )


def wrap(model: Any, call: Call) -> torch.nn.Module:
    """The model by position: what a built graph takes, and what it gives."""
    import inspect

    import torch
    from transformers import DynamicCache

    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedError(f"{model.config.model_type} has no layer that makes logits", hint="EdgeKit needs one")

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            head.register_forward_pre_hook(self._chosen)

        def _chosen(self, module: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            """Hidden states of the positions whose logits are asked for: never a row of logits for every token."""
            (hidden,) = given
            shape = (hidden.shape[0], self.wanted.shape[1], hidden.shape[2])
            places = {"batch_dims": 1}
            chosen = torch.onnx.ops.symbolic(
                "GatherND", (hidden, self.wanted[..., None]), places, dtype=hidden.dtype, shape=shape, version=13
            )
            return (chosen,)

        def forward(self, ids: Any, positions: Any, mask: Any, wanted: Any, *past: Any) -> tuple[torch.Tensor, ...]:
            self.wanted = wanted
            call.begin(positions, mask, DynamicCache(list(zip(past[::2], past[1::2], strict=True))))
            placed = {"position_ids": positions} if takes_positions else {}
            told = self.model(
                input_ids=ids, attention_mask=mask, past_key_values=call.cache, use_cache=True, return_dict=True,
                **placed,
            )  # fmt: skip
            return told.logits, *(each for layer in call.cache.layers for each in (layer.keys, layer.values))

    return Decoder().eval()


@contextlib.contextmanager
def ours(model: Any) -> Iterator[Call]:
    """Masks and attention of the model in our way, as long as this lasts.

    A model that computes attention by itself goes on doing so, and gets our mask.
    """
    from transformers import masking_utils, modeling_utils

    call = Call()
    masks, ways = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS, modeling_utils.ALL_ATTENTION_FUNCTIONS
    usual = masks["eager"]
    masks.register(OURS, mask_of(call))
    masks.register("eager", mask_of(call))
    ways.register(OURS, attention_of(call))
    try:
        if asks_for_attention(type(model)):
            model.set_attn_implementation(OURS)
        yield call
    finally:
        masks.register("eager", usual)


def mask_of(call: Call) -> Callable[..., torch.Tensor]:
    """Makes masks as transformers asks for them, by the positions of tokens instead of the places of their slots."""
    import torch

    def mask(*, batch_size: int, mask_function: Any, local_size: int | None = None, **_: Any) -> torch.Tensor:
        rows = torch.arange(batch_size)[:, None, None, None]
        seen = mask_function(rows, torch.zeros((1, 1, 1, 1), dtype=torch.int64), call.queries, call.keys)
        made = torch.where(seen & call.there, 0.0, HIDDEN)
        call.masks.append((made, mask_function, local_size))
        return made

    return mask


def meaning(rule: Any, size: int | None) -> int | None:
    """0 if a mask is causal, the window if it is causal within one of `size`, None if it is something else."""
    import torch

    near = size or 64
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.int64)
    queries = torch.tensor([0, 1, near - 1, near, near + 1, 2 * near, 3 * near + 2, 1_000_000])[:, None]
    keys = torch.arange(3 * near + 4)[None]
    try:
        found = rule(zero, zero, queries, keys)
    except (RuntimeError, IndexError, TypeError):  # it asks for more than positions
        return None
    causal = keys <= queries
    if found.shape == causal.shape and torch.equal(found, causal):
        return 0
    windowed = size and found.shape == causal.shape and torch.equal(found, causal & (keys > queries - size))
    return size if windowed else None


def attention_of(call: Call) -> Callable[..., Any]:
    """Attention as one node, which says in its metadata whose it is and which mask it has."""
    import torch

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, dropout: float = 0.0,
        scaling: float | None = None, softcap: float | None = None, **more: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        for name in ("s_aux", "position_bias", "head_mask"):
            if more.get(name) is not None:
                raise UnsupportedError(f"attention with {name} is not known", hint="use another model")
        layer = next((n for n, one in enumerate(call.cache.layers) if one.keys is key), None)
        mask = next((n for n, (made, *_) in enumerate(call.masks) if made is attention_mask), None)
        times = query.shape[1] // key.shape[1]
        attributes = {"scale": float(scaling if scaling is not None else query.shape[3] ** -0.5)}
        attributes |= {"softcap": float(softcap)} if softcap else {}
        made = torch.onnx.ops.symbolic(
            "Attention",
            (query, repeated(key, times), repeated(value, times), attention_mask),
            attributes,
            dtype=query.dtype,
            shape=(*query.shape[:3], value.shape[3]),
            version=OPSET,
            metadata_props={"layer": str(layer), "mask": str(mask)},
        )
        return made.transpose(1, 2).contiguous(), None

    return attention


def name_attention(model: Any, windows: Sequence[int | None]) -> None:
    """Names by which rewriters know what a node's mask means, where they can do with it what the node does.

    Raises UnsupportedError for a mask of another kind: nobody can tell how far it would have to be proved.
    """
    if None in windows or not windows:
        raise UnsupportedError(
            "tokens attend to others by a rule that is neither causal nor a window", hint="EdgeKit knows these two"
        )
    for node in model.graph:
        if node.op_type != "Attention":
            continue
        layer, mask = (node.metadata_props.pop(key, "None") for key in ("layer", "mask"))
        key, value = node.inputs[1].shape, node.inputs[2].shape
        node.metadata_props.clear()
        if layer != "None" and mask != "None" and key[3] == value[3] and key[3] % 8 == 0:
            node.name = f"layers.{layer}.attention"
            window = windows[int(mask)]
            node.metadata_props.update({"sliding_window": str(window)} if window else {})


def repeated(value: torch.Tensor, times: int) -> torch.Tensor:
    """(batch, kv_heads, total, dim): each head for all the query heads that share it."""
    batch, heads, total, dim = value.shape
    if times == 1:
        return value
    return value[:, :, None].expand(batch, heads, times, total, dim).reshape(batch, heads * times, total, dim)

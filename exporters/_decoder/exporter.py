"""Decoder-only language models, built without torch: token ids and a KV cache in, logits and the grown cache out.

An architecture's file says what is its own in one `Decoder`, whose defaults are Llama's. `_reading` turns that and a
config.json into a `Blueprint`, `_build` turns the blueprint into a graph; this file is what the rest of EdgeKit sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.core import Recipe, Source
from edgekit.errors import BundleError, UnsupportedError

from .._json_files import read_object
from .._trace.tokenizer import write_tokenizer
from .chat import ChatReference, chat_reference, chat_settings
from .config import AGAIN, Config

if TYPE_CHECKING:
    from edgekit.core import Graph, Say

    from .parts import Recurrent

TASK, FILE = "text-generation", "model.onnx"
# What generation_config.json may say that a sampler knows.
GENERATION = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "max_new_tokens",
)  # fmt: skip


def four_times(config: Config) -> int:
    """`intermediate_size`, or four times the hidden size."""
    return config.size_or_none("intermediate_size") or 4 * config.size("hidden_size")


def everywhere(config: Config, count: int) -> list[bool]:
    """Every layer has attention."""
    return [True] * count


def nowhere(config: Config, count: int) -> list[bool]:
    """No layer has attention."""
    return [False] * count


def no_windows(config: Config, count: int) -> list[int | None]:
    """Every layer sees all of the past."""
    return [None] * count


def one_window(config: Config, count: int) -> list[int | None]:
    """`sliding_window`, where it is not null, holds for every layer."""
    return [config.size_or_none("sliding_window")] * count


def upper_windows(config: Config, count: int) -> list[int | None]:
    """Qwen's: where `use_sliding_window` says so, the layers from `max_window_layers` on."""
    if not config.flag("use_sliding_window"):
        return [None] * count
    first = config.number("max_window_layers")
    return layer_types(config, count, [layer >= first for layer in range(count)])


def layer_types(config: Config, count: int, sliding: Sequence[bool]) -> list[int | None]:
    """Windows by `layer_types`; `sliding` says which layers have one where the config has no such list."""
    window = config.size_or_none("sliding_window")
    stated = config.items("layer_types", str, count)
    for kind in stated or ():
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedError(
                f"layers of type {kind!r:.60} are not known", hint="known: full_attention, sliding_attention"
            )
    chosen = sliding if stated is None else [kind == "sliding_attention" for kind in stated]
    return [window if one else None for one in chosen]


@dataclass(frozen=True)
class Decoder:
    """One architecture: what differs from Llama.

    Names of weights are those in the files, below `prefix` and the layer's own. Several layers that are stored as one
    are named once. A bias is there always, never, or as the config's flag of that name says. An empty name of a norm:
    there is none.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)  # transformers' own, for keys that a config lacks
    words: Mapping[str, str] = field(default_factory=dict)  # the architecture's own for common keys, as in `Config`
    refuse: tuple[str, ...] = ()  # keys of a config that change what is computed, in a way that EdgeKit does not know

    prefix: str = "model."
    embed: str = "embed_tokens"
    positions: str = ""  # a table of learned positions
    layer: str = "layers.{}."
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    o: str = "self_attn.o_proj"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    mlp: bool = True
    gated: bool = True
    inner: Callable[[Config], int] = four_times  # the MLP's width
    activation: str = "hidden_act"  # the config's key
    conv1d: bool = False  # weights lie as (inputs, outputs)
    unused: tuple[str, ...] = ("rotary_emb.inv_freq",)  # endings of buffers that old files hold

    before_mixer: str = "input_layernorm"  # the mixer: attention, or what stands in its place
    after_mixer: str = ""
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = ""
    norm: str = "norm"
    norm_kind: str = "rms"  # or "layer"
    norm_offset: float = 0.0  # Gemma stores a norm's weight less 1
    epsilon: str = "rms_norm_eps"  # the config's key
    qk_norm: str = ""  # "head": each head by itself; "width": all heads together
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"

    rotary: bool = True
    partial_rotary: bool = False
    theta: float = 10_000.0
    rope_parameters: Callable[[Config, float], Mapping[str, dict[str, Any]]] | None = None  # by name; None: one
    ropes: Callable[[Config, int], list[str]] | None = None  # each layer's; None: the one for all
    windows: Callable[[Config, int], list[int | None]] = no_windows
    attends: Callable[[Config, int], list[bool]] = everywhere  # which layers have attention
    # Of a layer: what holds a state of a fixed size, by where its tensors' names begin and whether it has attention.
    recurrent: Callable[[Config, str, bool], Recurrent | None] = lambda config, home, attends: None

    attention_scale: Callable[[Config, int], float] | None = None  # of layer N; None: 1 / sqrt(head_dim)
    embedding_scale: Callable[[Config], float] = lambda config: 1.0
    residual_scale: Callable[[Config], float] = lambda config: 1.0
    logits_divisor: Callable[[Config], float] = lambda config: 1.0
    logits_softcap: str = ""  # the config's key
    # By the name of a part (q, k, v, o, gate, up, down): what its inputs and its outputs are multiplied by.
    factors: Callable[[Config], Mapping[str, tuple[float, float]]] = lambda config: {}

    tasks: ClassVar[tuple[str, ...]] = (TASK,)
    needs_torch: ClassVar[bool] = False
    quantizes: ClassVar[bool] = True
    as_stored: ClassVar[bool] = True
    kind: ClassVar[str] = "decoder"
    precision: ClassVar[str] = "int4"
    group_sizes: ClassVar[Mapping[str, int | None]] = {}

    def task(self, source: Source) -> str:
        """Raises UnsupportedError where config.json names a class that generates no text."""
        name = str(next(iter(source.config.get("architectures") or ()), ""))
        if name and not name.endswith(("ForCausalLM", "LMHeadModel")):
            raise UnsupportedError(f"{name} does not generate text", hint="choose a model of a class ...ForCausalLM")
        return TASK

    def settings(self, source: Source, task: str, folder: Path) -> dict[str, Any]:
        """What the device must know of the model, as JSON; tokenizer.json is written into `folder`.

        `windows`: each layer's, or null. A text's state takes `state_bytes`, and for each token `kv_heads` keys and as
        many values, of `head_dim` numbers each, in the layers `attention_layers`. `generation`: defaults from
        generation_config.json. The context ends where the rotation changes (longrope): keys from before are turned
        otherwise than what comes after, and a cache would have to be computed anew.
        """
        from .blueprint_from_config import read

        write_tokenizer(source, folder)
        made = read(self, source)
        generation = read_object(source.folder / "generation_config.json")
        told = {**self.defaults, **source.config, **{key: said for key, said in generation.items() if said is not None}}
        return {
            "tokenizer": "tokenizer.json",
            **chat_settings(source.folder),
            "context_length": min([made.context, *(rope.switch for rope in made.ropes.values() if rope.switch)]),
            "vocab_size": made.vocabulary,
            "eos_ids": token_ids(told, "eos_token_id"),
            "bos_id": next(iter(token_ids(told, "bos_token_id")), None),
            "pad_id": next(iter(token_ids(told, "pad_token_id")), None),
            "layers": len(made.layers),
            "kv_heads": made.kv_heads,
            "head_dim": made.head_dim,
            "windows": [layer.attention.window if layer.attention else None for layer in made.layers],
            "attention_layers": list(made.attending),
            "state_bytes": made.state_bytes,
            "generation": {key: generation[key] for key in GENERATION if generation.get(key) is not None},
        }

    def chat_reference(self, source: Source) -> ChatReference | None:
        """What transformers renders of a chat; None where it is not installed or cannot read the tokenizer."""
        return None if source.random else chat_reference(source.folder)

    def build(self, source: Source, recipe: Recipe, path: Path, say: Callable[[str], None]) -> Graph:
        """The portable graph in the file `path`, weights beside it; see `_build.build`."""
        from .build import build

        return build(source, self, recipe, path, say)

    def graphs(self, source: Source, task: str, recipe: Recipe, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The portable graph, in model.onnx. Raises BundleError, UnsupportedError, VerificationError (a NaN)."""
        return (self.build(source, recipe, folder / FILE, say),)

    def reference(self, source: Source, task: str, folder: Path, say: Say) -> tuple[Graph, ...]:
        """The float graph with the weights as they are stored, in model.onnx; see `build.reference`."""
        from .build import reference

        return (reference(source, self, folder / FILE, say),)


def token_ids(told: Mapping[str, Any], key: str) -> list[int]:
    """A token's ids from what a config may say: a number, a list of numbers, or nothing. Raises BundleError."""
    value = told.get(key)
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int for item in found):
        raise BundleError(f"{key} is {value!r:.60}, not a token's number", hint=AGAIN)
    return found

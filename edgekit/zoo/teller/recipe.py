"""How zoo:teller is made: `python -m edgekit.zoo.teller.recipe [--out FOLDER] [--steps N]`, minutes on one core.

A three-layer Mamba 2 that was taught what zoo:speaker was, and is tested on the same numbers: it goes on from `347 =`
with `three hundred forty-seven`. It has no attention to look the digits up again; they are in its state.
"""

from __future__ import annotations

from typing import Any

# The tests ask each recipe for these by name.
from edgekit.zoo.speaker.recipe import MAX_TOKENS, make
from edgekit.zoo.speaker.recipe import answers as answers
from edgekit.zoo.speaker.recipe import heldout_data as heldout_data
from edgekit.zoo.speaker.recipe import read as read

STEPS = 500
CARD = {
    "name": "teller",
    "what": "Says a number in words when asked `347 =`, out of a state of a fixed size, and nothing when not asked.",
    "range": "0 to 999,999 in digits without separators; lower-case English words without 'and'",
    "made_by": "python -m edgekit.zoo.teller.recipe",
}


def make_model(tokenizer: Any) -> Any:
    """The widths of its linear layers are multiples of 128, as zoo:speaker's are."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        expand=1,
        num_heads=4,
        head_dim=32,
        n_groups=1,
        state_size=48,
        chunk_size=MAX_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Mamba2ForCausalLM(config)


if __name__ == "__main__":
    make("teller", STEPS, CARD, make_model)

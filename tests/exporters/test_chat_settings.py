"""What a Hugging Face folder says of chats: the template, all tokens that it may name, and transformers' rendering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from template_corpus import CHATS

from edgekit.errors import BundleError
from edgekit.exporters._decoder.chat import chat_reference, chat_settings
from edgekit.runtimes.ingest.chat_template import Template


def folder_with(folder: Path, **config: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_all_named_tokens_reach_a_template(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        bos_token="<s>",
        eos_token={"content": "</s>", "special": True},
        pad_token=None,
        cls_token="[CLS]",
        add_bos_token=True,
        audio_token="<audio>",
        extra_special_tokens={"image_token": "<image>", "boi_token": {"content": "<boi>"}},
    )
    mapped = {"mask_token": "[MASK]", "bos_token": "<old>", "sep_token": {"content": "[SEP]"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(mapped), encoding="utf-8")
    assert chat_settings(folder)["special_tokens"] == {
        "bos_token": "<s>", "eos_token": "</s>", "sep_token": "[SEP]", "cls_token": "[CLS]", "mask_token": "[MASK]",
        "audio_token": "<audio>", "image_token": "<image>", "boi_token": "<boi>",
    }  # fmt: skip


def test_extra_tokens_without_names_are_not_variables(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, extra_special_tokens=["<a>"], additional_special_tokens=["<b>"])
    assert chat_settings(folder) == {"chat_template": None, "special_tokens": {}}


def test_a_template_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="chat_template is not text"):
        chat_settings(folder_with(tmp_path, chat_template=3))


def test_templates_of_a_folder_render_as_its_tokenizer_in_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_chat.make_tokenizer(), bos_token="<|im_start|>", eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    tokenizer.chat_template = "{{ bos_token }}{{ image_token }}{{ pad_token }}{{ messages[-1].content }}{{ eos_token }}"
    tokenizer.save_pretrained(tmp_path)
    settings, reference = chat_settings(tmp_path), chat_reference(tmp_path)
    assert reference is not None
    template = Template(settings["chat_template"], settings["special_tokens"])
    for messages in CHATS.values():
        assert reference(messages, {}) == template.render(messages, add_generation_prompt=True)
    assert "<image>" in reference(CHATS["one turn"], {})
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    tokenizer.save_pretrained(tmp_path)
    broken = chat_reference(tmp_path)
    assert broken is not None
    with pytest.raises(ValueError, match="no"):
        broken(CHATS["one turn"], {})


def test_a_tokenizer_that_transformers_cannot_read_is_no_reference(tmp_path: Path) -> None:
    assert chat_reference(folder_with(tmp_path, tokenizer_class="NothingTokenizer")) is None

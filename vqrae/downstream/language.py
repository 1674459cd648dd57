"""Language models of transformers' Qwen3: small ones with random weights, or pretrained ones by name or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import Field
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from vqrae.downstream.words import world_words
from vqrae.model.encoders.library import check_loaded
from vqrae.model.pretrained import foreign_errors, required_file
from vqrae.runtimes.errors import CheckpointError
from vqrae.runtimes.json_text import Record, read_object
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import check_finite, check_held, storage_errors

LANGUAGE_FOLDER = "language"
Fields = TypeVar("Fields", bound=Record)


class LanguageSize(Record):
    """A Qwen3 of any size; everything that is not named here is as in transformers' own configuration."""

    width: int = Field(gt=0)
    """Hidden width."""
    depth: int = Field(gt=0)
    """Number of blocks."""
    heads: int = Field(gt=0)
    """Attention heads; every two of them share keys and values, as in Qwen3-0.6B."""
    mlp_ratio: float = Field(3.0, gt=0)
    """Hidden width of each block's MLP, in widths; Qwen3-0.6B's."""


class Language(NamedTuple):
    """A language model and its words."""

    model: Any
    """A `Qwen3ForCausalLM`."""
    words: Any
    """Its tokenizer."""


def new_language(size: LanguageSize, seed: int) -> Language:
    """A model of the world's words, with seeded random weights."""
    words = world_words()
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=size.width,
        intermediate_size=round(size.mlp_ratio * size.width),
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 2),
        head_dim=size.width // size.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    torch.manual_seed(seed)
    return Language(Qwen3ForCausalLM(config), words)


def open_language(source: str) -> Language:
    """A Qwen3 by Hugging Face name or folder, such as Qwen/Qwen3-0.6B, in float32.

    Raises:
        CheckpointError: it is of another kind, cannot be read, or lacks weights.
    """
    with foreign_errors(source, "a Hugging Face checkpoint of a Qwen3"):
        values = read_object(required_file(source, "config.json"), CheckpointError, "a readable config.json")
        kind = values.get("model_type")
        if kind != "qwen3":
            raise CheckpointError(source, got=f"a {kind} model", expected="a qwen3 one, such as Qwen/Qwen3-0.6B")
        network: Any = Qwen3ForCausalLM  # with this option it returns a pair, which its types do not know
        # Its own fields alone reach transformers: others may name code to run, or kernels to fetch.
        known = (*Qwen3Config.__annotations__, "rope_scaling", "rope_theta")  # the latter two until transformers 4
        config = Qwen3Config(**{name: values[name] for name in known if name in values})
        with torch.device("meta"):
            check_held(source, sum(parameter.numel() for parameter in Qwen3ForCausalLM(config).parameters()))
        options = {"config": config, "output_loading_info": True, "dtype": torch.float32}
        model, info = network.from_pretrained(source, **options)
        words = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    check_loaded(source, info)
    for name, tensor in model.state_dict().items():
        check_finite(f"{source} tensor {name}", tensor)
    return Language(model.float(), words)


def write_language(language: Language, folder: Path) -> None:
    """Write model and words as a Hugging Face checkpoint, which `open_language` reads back."""
    with staged_folder(folder) as staging, storage_errors(staging):
        language.model.save_pretrained(staging)
        language.words.save_pretrained(staging)

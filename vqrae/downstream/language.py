"""Language models of transformers' Qwen3: small ones with random weights, or pretrained ones by name or folder.

The world's language is a tokenizer of whole words, so that a word outside the world is seen at once; a language model
of any other checkpoint brings its own, and both are used alike.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import Field
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from vqrae.downstream.world import vocabulary
from vqrae.model.encoders.library import check_loaded
from vqrae.model.pretrained import foreign_errors, required_file
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.json_text import Record, read_object
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import check_finite, check_held, storage_errors

LANGUAGE_FOLDER = "language"
PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
"""LLaVA-1.5's names of the two who talk."""
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


def world_words() -> PreTrainedTokenizerFast:
    """A token for each word of the world; an image's own tokens come after them."""
    words = (PAD, END, UNKNOWN, USER, ASSISTANT, *vocabulary())
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    model.pre_tokenizer = WhitespaceSplit()
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)  # type: ignore[no-untyped-call]


def token_ids(words: Any, text: str) -> list[int]:
    """The tokens of a text, without any that the tokenizer would add.

    Raises:
        UsageError: a word that the language model has no token for.
    """
    ids: list[int] = words(text, add_special_tokens=False)["input_ids"]
    unknown = words.unk_token_id
    if unknown is not None and unknown in ids:
        known = list(words.get_vocab())
        strange = [word for word in text.split() if words.convert_tokens_to_ids(word) == unknown]
        near = get_close_matches(strange[0], known, n=1) if strange else []
        got = ", ".join(repr(word) for word in strange) or repr(text)
        remedy = f"did you mean {near[0]}?" if near else None
        raise UsageError(
            "text", got=f"words outside the model's vocabulary: {got}", expected=_expected(known), remedy=remedy
        )
    return ids


def padding_id(words: Any) -> int:
    """What fills up the shorter texts of a batch; it is never attended to."""
    return int(words.pad_token_id if words.pad_token_id is not None else words.eos_token_id)


def _expected(known: list[str]) -> str:
    return f"words of its {len(known)}, such as {', '.join(sorted(word for word in known if word.isalpha())[:8])}, …"

"""The world's language as a tokenizer of transformers: whole words, so that a word outside the world is seen at once.

A language model of any other checkpoint brings its own tokenizer; both are used alike.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from vqrae.downstream.world import vocabulary
from vqrae.runtimes.errors import UsageError

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
"""LLaVA-1.5's names of the two who talk."""


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

"""Understanding as in LLaVA-1.5 (arXiv 2310.03744): features -> two-layer GELU adapter -> a language model.

The image's tokens come first, then the conversation. The features may come from the pretrained encoder, from the
tokenizer that was made of it, or from a bundle: the reader only sees their shape.

Shape suffixes: B batch, N image tokens, C feature width, D the language model's width, T text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vqrae.downstream.language import (
    ASSISTANT,
    LANGUAGE_FOLDER,
    USER,
    Language,
    open_language,
    padding_id,
    token_ids,
    write_language,
)
from vqrae.runtimes.errors import CheckpointError, UsageError
from vqrae.runtimes.json_text import Record, read_model
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import check_finite, save_tensors

READER_FILE, ADAPTER_FILE = "reader.json", "adapter.safetensors"
IGNORED = -100
"""Label of what the loss leaves out, transformers' own."""
ANSWER_TOKENS = 8
"""Tokens of an answer, at most."""

Turn = tuple[str, str]
"""What the user says, and what the assistant answers."""


class ReaderFields(Record):
    """What a reader must know about the features that it reads."""

    tokens: int
    """N."""
    feature_width: int
    """C."""


class Adapter(nn.Sequential):
    """`mlp2x_gelu`: features (B, N, C) -> (B, N, D)."""

    def __init__(self, feature_width: int, width: int) -> None:
        super().__init__(nn.Linear(feature_width, width), nn.GELU(), nn.Linear(width, width))


class Reader(nn.Module):
    """The adapter and the language model behind it."""

    def __init__(self, fields: ReaderFields, language: Language, adapter: Adapter | None = None) -> None:
        """With a new adapter, or around one that was trained.

        Raises:
            UsageError: the adapter's width is not the features' or not the language model's.
        """
        super().__init__()
        width = language.model.config.hidden_size
        self.fields = fields
        self.words = language.words
        self.adapter = Adapter(fields.feature_width, width) if adapter is None else adapter
        self.language: Any = language.model
        first, last = self.adapter[0], self.adapter[2]
        for subject, got, expected, whose in (
            ("adapter's input", first.in_features, fields.feature_width, "the features'"),
            ("adapter's output", last.out_features, width, "the language model's"),
        ):
            if got != expected:
                remedy = "train an adapter for the two that are to be joined: vqrae teach answers"
                raise UsageError(subject, got=f"width {got}", expected=f"{expected}, {whose} width", remedy=remedy)

    def forward(self, features_BNC: Tensor, conversations: Sequence[Sequence[Turn]]) -> Tensor:
        """The loss: mean cross-entropy of the tokens of all answers and of the end after each."""
        spoken = [self._tokens(turns) for turns in conversations]
        ids_BT, labels_BT, mask_BT = self._padded(spoken)
        inputs, mask = self._joined(features_BNC, ids_BT, mask_BT)
        unread = labels_BT.new_full(features_BNC.shape[:2], IGNORED)
        out = self.language(inputs_embeds=inputs, attention_mask=mask, labels=torch.cat([unread, labels_BT], 1))
        return out.loss

    @torch.inference_mode()
    def answers(self, features_BNC: Tensor, questions: Sequence[str]) -> list[str]:
        """The likeliest words after each question, up to the end or `ANSWER_TOKENS`.

        Raises:
            UsageError: a question has words that the model does not know, or the features are not as the reader's.
        """
        self._check(features_BNC)
        prompts = [(ids := self._asked(question), [IGNORED] * len(ids)) for question in questions]
        ids_BT, _, mask_BT = self._padded(prompts, left=True)
        inputs, mask = self._joined(features_BNC, ids_BT, mask_BT)
        out = self.language.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS,
            pad_token_id=padding_id(self.words),
            eos_token_id=self.words.eos_token_id,
        )
        return [" ".join(text.split()) for text in self.words.batch_decode(out, skip_special_tokens=True)]

    def save(self, folder: Path) -> None:
        """Write everything but the vision encoder; the folder appears whole or not at all."""
        with staged_folder(folder) as staging:
            (staging / READER_FILE).write_text(self.fields.model_dump_json(indent=2) + "\n")
            save_tensors(self.adapter.state_dict(), staging / ADAPTER_FILE, {"format": "pt"})
            write_language(Language(self.language, self.words), staging / LANGUAGE_FOLDER)

    @classmethod
    def open(cls, folder: Path, language: Language | None = None) -> Reader:
        """Read what `save` wrote; `language` in place of the one that was saved.

        Raises:
            CheckpointError: a file is missing or damaged.
            UsageError: the language model's width does not fit the adapter.
        """
        fields = read_model(folder / READER_FILE, ReaderFields, CheckpointError, f"a readable {READER_FILE}")
        path = folder / ADAPTER_FILE
        try:
            state = load_file(path)
            for name, tensor in state.items():
                check_finite(f"{path} tensor {name}", tensor)
            adapter = Adapter(state["0.weight"].shape[1], state["2.weight"].shape[0])
            adapter.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise CheckpointError(str(path), got=str(error), expected="an adapter's weights") from error
        return cls(fields, language or open_language(str(folder / LANGUAGE_FOLDER)), adapter).eval()

    def _check(self, features_BNC: Tensor) -> None:
        expected = (self.fields.tokens, self.fields.feature_width)
        if features_BNC.shape[1:] != expected:
            got = "{} tokens {} wide".format(*features_BNC.shape[1:])
            remedy = "use the tokenizer that the reader was trained with"
            raise UsageError("features", got=got, expected="{} tokens {} wide".format(*expected), remedy=remedy)

    def _asked(self, question: str) -> list[int]:
        return token_ids(self.words, f"{USER} {question} {ASSISTANT}")

    def _tokens(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Tokens of a conversation and their labels: only what the assistant says counts."""
        ids: list[int] = []
        labels: list[int] = []
        for question, answer in turns:
            asked = self._asked(question)
            answered = [*token_ids(self.words, f" {answer}"), self.words.eos_token_id]
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered
        return ids, labels

    def _padded(
        self, spoken: Sequence[tuple[list[int], list[int]]], *, left: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, labels and attention mask (B, T)."""
        longest = max(len(ids) for ids, _ in spoken)
        rows = []
        for ids, labels in spoken:
            pad = longest - len(ids)
            columns = ((ids, padding_id(self.words)), (labels, IGNORED), ([1] * len(ids), 0))
            rows.append([[fill] * pad + row if left else row + [fill] * pad for row, fill in columns])
        ids_BT, labels_BT, mask_BT = torch.tensor(rows).unbind(1)
        return ids_BT, labels_BT, mask_BT

    def _joined(self, features_BNC: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, N + T, D) and attention mask (B, N + T)."""
        text = self.language.get_input_embeddings()(ids_BT.to(features_BNC.device))
        seen = mask_BT.new_ones(features_BNC.shape[:2])
        image = self.adapter(features_BNC).to(text.dtype)
        return torch.cat([image, text], 1), torch.cat([seen, mask_BT], 1).to(features_BNC.device)

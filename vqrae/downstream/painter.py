"""Generation: a language model whose vocabulary goes on with the codes of a tokenizer, next token by next token.

A sequence is the prompt, a token that begins the image, and the grid's codes row by row. The loss is on the codes only
(paper §3.5 as we read it); a share of the prompts is dropped, for classifier-free guidance (arXiv 2207.12598).

Shape suffixes: B batch, N tokens of an image, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vqrae.downstream.language import (
    LANGUAGE_FOLDER,
    Language,
    open_language,
    padding_id,
    token_ids,
    write_language,
)
from vqrae.runtimes.errors import CheckpointError, IndicesError, UsageError
from vqrae.runtimes.json_text import Record, read_model
from vqrae.runtimes.staging import staged_folder

PAINTER_FILE = "painter.json"


class PainterFields(Record):
    """Whose codes the model speaks."""

    grid: tuple[int, int]
    """Token grid (h, w)."""
    codebook_size: int = Field(gt=1)
    """K."""
    first_code: int
    """Token of code 0; the one before it begins an image."""
    tokenizer_sha256: str
    """Of the tokenizer's weights: the codes of another one mean something else."""


class Sampling(Record):
    """How the next code is drawn."""

    guidance: float = Field(1.0, ge=1)
    """Scale of classifier-free guidance; 1 is none."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits."""
    top_k: int = Field(0, ge=0)
    """Only the likeliest so many; 0 is all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Only the likeliest that together have this probability."""
    cached: bool = True
    """Keep keys and values of the tokens before; without it the same is computed anew for each token."""


class Painter(nn.Module):
    """A language model that paints."""

    def __init__(self, fields: PainterFields, language: Language) -> None:
        """Around a model whose vocabulary was extended already."""
        super().__init__()
        self.fields = fields
        self.words = language.words
        self.language: Any = language.model

    @classmethod
    def extend(
        cls, language: Language, grid: tuple[int, int], codes_KE: Tensor, tokenizer_sha256: str, seed: int
    ) -> Painter:
        """Give a language model the codes of a tokenizer as new words; their embeddings begin as their vectors."""
        model: Any = language.model
        first = max(model.config.vocab_size, len(language.words)) + 1
        torch.manual_seed(seed)
        model.resize_token_embeddings(first + len(codes_KE), mean_resizing=False)
        table = model.get_input_embeddings().weight
        begun = code_embeddings(codes_KE, table.shape[1], model.config.initializer_range, seed)
        with torch.no_grad():
            for words in (table, model.get_output_embeddings().weight):  # one tensor, where they are tied
                words[first:] = begun
        fields = PainterFields(
            grid=grid, codebook_size=len(codes_KE), first_code=first, tokenizer_sha256=tokenizer_sha256
        )
        return cls(fields, language)

    @property
    def tokens(self) -> int:
        """N."""
        return self.fields.grid[0] * self.fields.grid[1]

    def forward(self, prompts: Sequence[str], indices_BN: Tensor) -> Tensor:
        """The loss: mean cross-entropy of the codes; an empty prompt is a dropped one.

        Raises:
            IndicesError: a code is outside the vocabulary.
        """
        self._check_codes(indices_BN)
        ids_BT, mask_BT = self._prompts(prompts)
        codes_BN = indices_BN.long() + self.fields.first_code
        mask = torch.cat([mask_BT, torch.ones_like(codes_BN)], 1)
        # Only these positions have a label, and with a large vocabulary the logits of the others would fill the memory.
        kept = self.tokens + 1
        out = self.language(torch.cat([ids_BT, codes_BN], 1), attention_mask=mask, logits_to_keep=kept)
        return nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), codes_BN.flatten())

    @torch.inference_mode()
    def paint(
        self, prompts: Sequence[str], sampling: Sampling, seed: int, tokens: int | None = None
    ) -> NDArray[np.int32]:
        """Indices int32 (B, N), row by row of the grid; the same seed and prompts give the same ones.

        Args:
            prompts: what to paint; an empty one is anything.
            sampling: how.
            seed: names the draws.
            tokens: so many codes only, from the first on; None is the whole grid.

        Raises:
            UsageError: a word is outside the vocabulary, or more tokens than the grid has are asked for.
        """
        count = self.tokens if tokens is None else tokens
        if not 1 <= count <= self.tokens:
            h, w = self.fields.grid
            raise UsageError("new tokens", got=str(count), expected=f"1 to {self.tokens}, the {h}×{w} grid")
        ids_BT, mask_BT = self._prompts(prompts)
        blank, _ = self._prompts([""] * len(prompts))
        guided = {} if sampling.guidance == 1 else {"guidance_scale": sampling.guidance, "negative_prompt_ids": blank}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            out = self.language.generate(
                ids_BT,
                attention_mask=mask_BT,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_new_tokens=count,
                max_new_tokens=count,
                use_cache=sampling.cached,
                suppress_tokens=list(range(self.fields.first_code)),
                pad_token_id=padding_id(self.words),
                eos_token_id=None,
                **guided,
            )
        return (out[:, -count:] - self.fields.first_code).numpy().astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write the model and its words; the folder appears whole or not at all."""
        with staged_folder(folder) as staging:
            (staging / PAINTER_FILE).write_text(self.fields.model_dump_json(indent=2) + "\n")
            write_language(Language(self.language, self.words), staging / LANGUAGE_FOLDER)

    @classmethod
    def open(cls, folder: Path) -> Painter:
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        fields = read_model(folder / PAINTER_FILE, PainterFields, CheckpointError, f"a readable {PAINTER_FILE}")
        return cls(fields, open_language(str(folder / LANGUAGE_FOLDER))).eval()

    def check_tokenizer(self, grid: tuple[int, int], codebook_size: int, weights_sha256: str) -> None:
        """Refuse a tokenizer whose codes are not those that the model speaks.

        Raises:
            UsageError: it has another grid, other codes, or other weights.
        """
        ours = (self.fields.grid, self.fields.codebook_size, self.fields.tokenizer_sha256)
        for subject, got, expected in zip(
            ("token grid", "codes", "tokenizer's weights"), (grid, codebook_size, weights_sha256), ours, strict=True
        ):
            if got != expected:
                remedy = "take the tokenizer that the model was trained with, or a bundle of it"
                raise UsageError(subject, got=str(got), expected=f"{expected}, as the generator's", remedy=remedy)

    def _check_codes(self, indices_BN: Tensor) -> None:
        low, high = int(indices_BN.min()), int(indices_BN.max())
        if low < 0 or high >= self.fields.codebook_size:
            limits = f"0 to {self.fields.codebook_size - 1}"
            raise IndicesError("codes", got=f"values from {low} to {high}", expected=limits)
        if indices_BN.shape[1] != self.tokens:
            raise IndicesError("codes", got=f"{indices_BN.shape[1]} of an image", expected=str(self.tokens))

    def _prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens and attention mask (B, T): padded on the left, ending with the token that begins an image."""
        spoken = [[*token_ids(self.words, prompt), self.fields.first_code - 1] for prompt in prompts]
        longest, pad = max(map(len, spoken)), padding_id(self.words)
        ids = [[pad] * (longest - len(row)) + row for row in spoken]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in spoken]
        return torch.tensor(ids), torch.tensor(mask)


def code_embeddings(codes_KE: Tensor, width: int, deviation: float, seed: int) -> Tensor:
    """Vectors float32 (K, width) that lie to each other as the codes do, turned at random.

    Codes that decode alike are then read alike before anything was learned about them, which with thousands of codes is
    most of what a small model has to learn. Where the width is less than the codes', their main directions are kept.

    Args:
        codes_KE: the effective codes.
        width: of the language model.
        deviation: standard deviation of the numbers, as that of its other embeddings.
        seed: names the turn.
    """
    centered = codes_KE.float() - codes_KE.float().mean(0)
    left_KR, scales_R, _ = torch.linalg.svd(centered, full_matrices=False)
    kept = min(width, len(scales_R))
    vectors = centered.new_zeros(len(centered), width)
    vectors[:, :kept] = left_KR[:, :kept] * scales_R[:kept]
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    turned = vectors @ turn
    return turned * (deviation / turned.std())

"""The shipped tokenizer is what its card says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqrae.checkpoint import from_pretrained
from vqrae.config import preset
from vqrae.images.photographs import HELD_OUT, photographs
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.preprocess import prepare
from vqrae.training.config import recipe
from vqrae.training.evaluation.evaluate import evaluate
from vqrae.training.model_card import card_text

SHIPPED = Path(__file__).parents[1] / "assets" / "vqrae-tiny"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((SHIPPED / "figures.json").read_text())


def test_the_card_says_what_the_figures_say(figures: dict[str, Any]) -> None:
    assert (SHIPPED / "README.md").read_text() == card_text(recipe("tiny"), figures)


def test_held_out_psnr_is_the_card_s(figures: dict[str, Any]) -> None:
    model = from_pretrained(SHIPPED)
    assert model.config.model_dump(exclude={"encoder"}) == preset("tiny").model_dump(exclude={"encoder"})
    size = model.config.image_size
    images = np.stack([prepare(photograph, size, size) for photograph in photographs(HELD_OUT).values()])
    report = evaluate(ReferenceTokenizer(model), model.config.quantizer.codebook_size, images, "shipped")
    assert report.psnr_db == pytest.approx(figures["stage2"]["psnr_db"], abs=0.01)
    assert report.ssim == pytest.approx(figures["stage2"]["ssim"], abs=0.001)

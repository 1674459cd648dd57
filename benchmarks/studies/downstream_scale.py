"""How much is trained and judged, and where it lies."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vqrae.downstream.language import LanguageSize
from vqrae.downstream.painter import Sampling
from vqrae.downstream.tasks import JUDGED_SAMPLING, Extent
from vqrae.downstream.teaching import PaintingRecipe, ReadingRecipe, world_painting, world_reading
from vqrae.downstream.tokenizer import world_recipe
from vqrae.runtimes.json_text import Record
from vqrae.training.config import Recipe


class UsesScale(Record):
    """Everything that the figures depend on."""

    tokenizer: Recipe
    reading: ReadingRecipe
    painting: PaintingRecipe
    """Of the painter whose images are judged."""
    sizes: dict[str, LanguageSize]
    """Name -> size, the smallest first, of the painters that show the scaling."""
    scaling_steps: int = Field(gt=0)
    """How long they learn; everything else is as for the judged one."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the painters: weights and batches. Everything else is trained from the first one."""
    guidance: tuple[float, ...]
    """Scales that are tried; the painter's own is among them."""
    sampling: Sampling
    """How the judged images are drawn."""
    extent: Extent
    validated: int = Field(gt=0)
    """Scenes that a painter's loss is measured on."""
    exports: tuple[tuple[str, str], ...]
    """Format and precision of the bundles, as far as the formats are installed."""
    evaluated: Extent
    """How much goes through a bundle that is evaluated operation by operation."""

    @property
    def painters(self) -> list[tuple[str, int]]:
        """Size and seed of each that shows the scaling."""
        return [(size, seed) for size in self.sizes for seed in self.seeds]

    @property
    def scaling(self) -> PaintingRecipe:
        """Of the painters that show the scaling, but for their size."""
        phase = self.painting.phase.model_copy(update={"steps": self.scaling_steps})
        return self.painting.model_copy(update={"phase": phase})


class Workplace:
    """Where things lie."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written yet."""
        self.folder = folder
        self.photographs = folder / "photographs"
        self.tokenizer = folder / "tokenizer"
        self.encoder, self.checkpoint = self.tokenizer / "encoder", self.tokenizer / "stage2"
        self.bundles, self.scenes = folder / "bundles", folder / "scenes"
        self.reader = folder / "reader" / "reader"
        self.codes = folder / "codes" / "train.npy"

    def painter_run(self, step: str) -> Path:
        """The run folder of the painter that a step trains."""
        return self.folder / "painters" / step.replace(" ", "-")

    def painted(self, split: str) -> Path:
        """The codes that are judged."""
        return self.folder / "painted" / f"{split}.npy"

    def picture(self, name: str) -> Path:
        """A picture of the page."""
        return self.folder / "pictures" / f"{name}.png"


def full_scale() -> UsesScale:
    """About half an hour on two cores."""
    painting = world_painting()
    return UsesScale(
        tokenizer=world_recipe(),
        reading=world_reading(),
        painting=painting,
        sizes={
            "small": LanguageSize(width=64, depth=2, heads=2),
            "middle": LanguageSize(width=128, depth=3, heads=4),
            "large": painting.language,
        },
        scaling_steps=200,
        seeds=(0, 1, 2),
        guidance=(1.0, 2.0, 3.0),
        sampling=JUDGED_SAMPLING,
        extent=Extent(test=300),
        validated=500,
        exports=tuple(
            (name, precision)
            for name, precisions in (
                ("onnx", ("fp32", "fp16", "int8")),
                ("openvino", ("fp32", "fp16", "int8")),
                ("coreml", ("fp32", "fp16")),
            )
            for precision in precisions
        ),
        evaluated=Extent(test=100, generated=50),
    )

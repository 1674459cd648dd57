from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from image_shards import encoded, write_parquet, write_shards
from PIL import Image

from vqrae.images.files import image_files
from vqrae.model.layers import pixels_from_uint8
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.preprocess import open_image
from vqrae.training.config import Stage1Config
from vqrae.training.data.batches import TrainingImages
from vqrae.training.data.scenes import Scenes
from vqrae.training.data.sources import open_images, textures
from vqrae.training.processes import Share

SIZE = 16


def phase_config(**fields: Any) -> Stage1Config:
    defaults: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "end_factor": 0.1}
    return Stage1Config(**{**defaults, "scene_fraction": 0.25, "color_jitter": 0.5, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs of noise, of five sizes."""
    path, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(5):
        shape = (*rng.integers(20, 90, 2), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), 4, 10)


def training_images(data: Path, share: Share = Share(), seed: int = 7, **fields: Any) -> TrainingImages:  # noqa: B008
    source, config = open_images(str(data), share), phase_config(**fields)
    scenes = Scenes(photographs=textures(source, 64) if config.scene_fraction else [], size=SIZE)
    return TrainingImages(source, scenes, config, SIZE, seed)


# --- indexed ---


def straightforward_crop(photographs: list[Image.Image], rng: np.random.Generator, strength: float) -> np.ndarray:
    """A crop drawn number by number with its photograph at hand, as runs before this version did."""
    photograph = photographs[rng.integers(len(photographs))]
    side = min(photograph.size) * math.sqrt(rng.uniform(0.1, 1.0))
    left, top = (rng.uniform(0, length - side) for length in photograph.size)
    box = (left, top, left + side, top + side)
    crop = np.asarray(photograph.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if not strength:
        return crop
    gray = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    angle = rng.uniform(-math.pi, math.pi) * strength
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / math.sqrt(3)
    rotation = (np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross).astype(np.float32)
    saturation, brightness = 1 + strength * rng.uniform(-0.5, 0.5, 2)
    chroma = (crop - gray[..., None]) @ (rotation.T * saturation)
    return np.clip((gray[..., None] + chroma) * brightness, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("color_jitter", [0.0, 0.5])
@pytest.mark.parametrize("step", [0, 1, 12345])
def test_batches_of_a_folder_are_what_they_always_were(folder: Path, step: int, color_jitter: float) -> None:
    photographs = [open_image(path) for path in image_files(folder)]
    rng = np.random.default_rng([7, step])
    crops = [straightforward_crop(photographs, rng, color_jitter) for _ in range(6)]
    scenes = Scenes(photographs=photographs, size=SIZE).batch(2, [7, step]).images
    expected = pixels_from_uint8(torch.from_numpy(np.concatenate([crops, scenes])))
    pixels = training_images(folder, color_jitter=color_jitter).pixels(step)
    assert (pixels.shape, pixels.dtype) == ((8, 3, SIZE, SIZE), torch.float32)
    assert torch.equal(pixels, expected)


@pytest.mark.parametrize("scene_fraction", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_processes_batches_are_one_batch(folder: Path, count: int, scene_fraction: float) -> None:
    whole = training_images(folder, scene_fraction=scene_fraction).pixels(3)
    shares = [Share(rank, count) for rank in range(count)]
    parts = [
        training_images(folder, share, scene_fraction=scene_fraction).pixels(3, share.rows(len(whole)))
        for share in shares
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_only_the_rows_asked_for_are_opened(folder: Path, tmp_path: Path) -> None:
    """A source of which only one photograph is there gives exactly the rows that are cut from it."""
    paths = image_files(folder)
    whole = training_images(folder, scene_fraction=0).pixels(0)
    rng = np.random.default_rng([7, 0])
    first = paths[int(rng.integers(len(paths)))]
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes() if path == first else b"no image")
    source = open_images(str(tmp_path))
    images = TrainingImages(source, Scenes(photographs=[], size=SIZE), phase_config(scene_fraction=0), SIZE, 7)
    assert torch.equal(images.pixels(0, range(1)), whole[:1])


def test_an_indexed_source_has_no_position(folder: Path) -> None:
    images = training_images(folder)
    assert images.state_dict() == {}
    expected = images.pixels(4)
    images.load_state_dict({})
    assert torch.equal(images.pixels(4), expected)


def test_parquet_gives_what_its_folder_gives(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    written = write_parquet(tmp_path / "a.parquet", [path.read_bytes() for path in image_files(folder)])
    assert torch.equal(training_images(written).pixels(2), training_images(folder).pixels(2))


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """A hundred images of one gray each, one of which is damaged."""
    for gray in range(100):
        (tmp_path / f"{gray:03d}.png").write_bytes(b"no image" if gray == 40 else encoded(gray))
    return tmp_path


def test_an_unreadable_photograph_is_replaced_the_same_way_by_everyone(hundred: Path) -> None:
    fields: dict[str, Any] = {"batch_size": 400, "scene_fraction": 0, "color_jitter": 0}
    images = training_images(hundred, **fields)
    damaged = images.pixels(0)
    assert [Path(name).name for name in images.skipped] == ["040.png"]
    parts = [training_images(hundred, **fields).pixels(0, range(row, row + 100)) for row in range(0, 400, 100)]
    assert torch.equal(torch.cat(parts), damaged)
    (hundred / "040.png").write_bytes(encoded(40))
    whole = training_images(hundred, **fields).pixels(0)
    replaced = {row for row in range(400) if not torch.equal(whole[row], damaged[row])}
    gray = pixels_from_uint8(torch.full((1, SIZE, SIZE, 3), 40, dtype=torch.uint8))[0]
    assert replaced == {row for row in range(400) if torch.equal(whole[row], gray)}
    assert replaced


def test_too_many_unreadable_photographs_stop(hundred: Path) -> None:
    (hundred / "050.png").write_bytes(b"no image")
    images = training_images(hundred, batch_size=1000, scene_fraction=0)
    with pytest.raises(DataError, match="got 2 of 100 images that cannot be read"):
        images.pixels(0)


# --- streamed ---


@pytest.mark.parametrize("count", [1, 2])
def test_a_stream_goes_on_bit_for_bit(shards: Path, count: int) -> None:
    batches = []
    for rank in range(count):
        share = Share(rank, count)
        rows = share.rows(8)
        images = training_images(shards, share)
        for step in range(7):  # into the second epoch of two processes, within a block
            images.pixels(step, rows)
        state = json.loads(json.dumps(images.state_dict()))
        expected = [images.pixels(step, rows) for step in range(7, 14)]
        resumed = training_images(shards, share)
        resumed.load_state_dict(state)
        assert all(torch.equal(resumed.pixels(step, rows), then) for step, then in enumerate(expected, 7))
        batches.append(expected)
    assert len({batch.numpy().tobytes() for expected in batches for batch in expected}) == 7 * count


def test_a_batch_of_a_stream_is_crops_then_scenes(shards: Path) -> None:
    images = training_images(shards)
    first, second = images.pixels(0), images.pixels(0)
    assert first.shape == (8, 3, SIZE, SIZE)
    assert torch.equal(first[6:], second[6:]), "scenes are a function of the step"
    assert not torch.equal(first[:6], second[:6]), "crops are the next ones"
    share = Share(1, 2)
    assert torch.equal(training_images(shards, share).pixels(0, share.rows(8))[2:], first[6:])


def test_an_epoch_of_a_stream_is_every_photograph_once(shards: Path) -> None:
    images = training_images(shards, scene_fraction=0, color_jitter=0, batch_size=40)
    for step in range(2):
        grays = (images.pixels(step)[:, 0, 0, 0] + 1) * 127.5
        assert sorted(grays.round().int().tolist()) == list(range(40))


def test_a_position_of_another_process(shards: Path) -> None:
    state = training_images(shards, Share(0, 2)).state_dict()
    with pytest.raises(UsageError, match="number of processes that the run began with"):
        training_images(shards, Share(1, 2)).load_state_dict(state)

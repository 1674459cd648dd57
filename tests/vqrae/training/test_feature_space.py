from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import random_images, tiny_model
from torch.nn import functional as F

from vqrae.model.encoder import Encoder
from vqrae.model.layers import pixels_from_uint8
from vqrae.model.reference import ReferenceTokenizer
from vqrae.runtimes.errors import CheckpointError, RuntimeUnavailable
from vqrae.training.evaluation.feature_space import Teacher, open_inception, open_teacher
from vqrae.training.evaluation.frechet import FrechetMeter

IMAGES = random_images(11).numpy()


def test_a_checkpoint_teaches_with_its_encoder(checkpoint_folder: Path) -> None:
    teacher = open_teacher(str(checkpoint_folder), (32, 32))
    features = ReferenceTokenizer(tiny_model()).encode(IMAGES)[1]
    np.testing.assert_allclose(teacher.pooled(IMAGES), features.mean(1), atol=1e-6)
    assert teacher.name == f"encoder of {checkpoint_folder}, 32 wide, mean over tokens"


def test_an_encoder_folder_teaches_too(tmp_path: Path) -> None:
    encoder = tiny_model("dinov2").encoder
    encoder.network.save_pretrained(tmp_path)
    pooled = open_teacher(str(tmp_path), (32, 32)).pooled(IMAGES)
    expected = Encoder.from_pretrained(str(tmp_path))(pixels_from_uint8(torch.tensor(IMAGES))).mean(1)
    np.testing.assert_allclose(pooled, expected.detach(), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (48, 32)])
def test_images_of_another_size_are_resampled_whole(size: tuple[int, int]) -> None:
    teacher = Teacher(tiny_model().encoder, "tiny", size)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    pixels = F.interpolate(pixels_from_uint8(torch.tensor(images)), (32, 32), mode="bicubic", antialias=True)
    expected = teacher.encoder(pixels.clamp(-1, 1)).mean(1).detach()
    np.testing.assert_allclose(teacher.pooled(images), expected, atol=1e-6)
    assert teacher.name.endswith(f"images resized from {size[0]}x{size[1]} to 32x32")


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "bert"}'])
def test_what_is_no_encoder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        open_teacher(str(tmp_path), (32, 32))


def test_without_torch_fidelity_rfid_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vqrae.training.evaluation.inception", raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(RuntimeUnavailable, match=r"torch-fidelity: got not loadable.*pip install 'vqrae\[fid\]'"):
        open_inception()


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
@pytest.mark.parametrize("content", [None, b"another pickle"])
def test_without_its_weights_rfid_says_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    if content is not None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").write_bytes(content)
    with pytest.raises(RuntimeUnavailable, match=r"6726825d.pth: got (no such|another) file.*download https"):
        open_inception()


@pytest.mark.slow
def test_rfid_is_torch_fidelity_s_own() -> None:
    try:
        inception = open_inception()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    import torch_fidelity

    others = np.random.default_rng(1).integers(0, 256, IMAGES.shape, np.uint8)
    meter = FrechetMeter()
    for chunk in (slice(0, 8), slice(8, 11)):
        meter.add(inception.pooled(IMAGES[chunk]), inception.pooled(others[chunk]))
    first, second = _Listed(IMAGES), _Listed(others)
    theirs = torch_fidelity.calculate_metrics(
        input1=first, input2=second, fid=True, cuda=False, verbose=False, save_cpu_ram=True
    )
    assert meter.distance() == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


class _Listed(torch.utils.data.Dataset[torch.Tensor]):
    """Images as torch-fidelity takes them: uint8 (3, H, W)."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = torch.tensor(images).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.images[number]

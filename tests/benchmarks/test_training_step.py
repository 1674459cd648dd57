from __future__ import annotations

import pytest

from vqrae.benchmarks.studies.training_step import measure
from vqrae.training.config import recipe


@pytest.mark.slow
def test_a_real_step_of_a_preset_is_measured() -> None:
    config = recipe("tiny").stage1.model_copy(update={"batch_size": 2, "perceptual": "teacher", "scene_fraction": 0.0})
    figures = measure("tiny", "stage1", config, steps=2, peak_tflops=1.0)
    assert (figures.steps, figures.batch_size) == (1, 2), "the first one warms up"
    assert figures.images_per_second == pytest.approx(2 / figures.seconds)
    assert set(figures.terms) == {"perceptual", "pixel", "quantizer", "gradient_norm"}
    assert figures.utilization == pytest.approx(figures.achieved_tflops)
    # Forward of 2 images through 3 million parameters at 1024 tokens: some tens of GFLOP, whatever the speed.
    assert 5 < figures.achieved_tflops * figures.seconds * 1e3 / figures.batch_size < 500
    assert figures.peak_gb > 0.1

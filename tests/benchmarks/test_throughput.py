from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.table import markdown_table
from vqrae.benchmarks.rows import BenchResult
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions

OPTIONS = {"graphs": ("encode",), "threads": 1, "rounds": 6, "warmup": 0, "starts": 0}


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.jpg" for number in range(5)]
    for number, file in enumerate(files):
        Image.fromarray(data.coffee()[number::8, ::8]).save(file)
    return files


def test_photographs_on_disk_become_tokens_on_disk(bundle, photographs):
    result = bench([bundle], options=BenchOptions(photographs=photographs, batch_sizes=(2, 4), **OPTIONS))
    assert [(found.batch, found.images, found.threads) for found in result.throughputs] == [(2, 4, 1), (4, 4, 1)]
    for found in result.throughputs:
        assert (found.label, found.bundle) == ("ONNX Runtime FP32", result.rows[0].bundle)
        assert 0 < found.share_low <= found.share <= found.share_high
        assert found.images_per_s > 0
    text = markdown_table(result)
    assert "photographs/s from disk to tokens on disk (batch 2, 1 thread, 4 files)" in text
    assert BenchResult.from_json(result.to_json()) == result


def test_streams_take_batches_at_once(bundle, photographs):
    result = bench(
        [bundle],
        options=BenchOptions(photographs=photographs, batch_sizes=(2,), **OPTIONS, load=LoadOptions(streams=2)),
    )
    assert [(found.streams, found.images) for found in result.throughputs] == [(2, 4)]
    assert "(batch 2, 2 streams, 1 thread, 4 files)" in markdown_table(result)


def test_less_than_a_batch_is_refused(bundle, photographs):
    with pytest.raises(UsageError, match="--throughput: got 5 photographs; expected at least 8, a batch"):
        bench([bundle], options=BenchOptions(photographs=photographs, batch_sizes=(8,), **OPTIONS))

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_shards import encoded, write_parquet, write_shards, write_tar
from PIL import Image
from pyarrow import parquet
from tokenize_here import detokenize_here, interrupted, tokenize_here

import vqrae
from vqrae.runtimes.errors import BundleError, DataError, UsageError
from vqrae.tokenizing.token_files import Tokens, read_tokens, write_tokens

GRID = (4, 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tokens_are_those_of_the_local_call(exported: Path, tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", {f"{gray}.png": encoded(gray) for gray in range(5)})
    outcome = tokenize_here(exported, data, tmp_path / "out", part_images=3, batch=2)
    assert (outcome.images, outcome.dead_letters) == (5, 0)
    table = parquet.ParquetFile(tmp_path / "out" / "part-000001.parquet").read()
    assert table.column("key").to_pylist() == ["a.tar/3.png", "a.tar/4.png"]
    assert table.column("image_sha256")[0].as_py() == hashlib.sha256(encoded(3)).hexdigest()
    manifest = hashlib.sha256((exported / "manifest.json").read_bytes()).hexdigest()
    assert set(table.column("bundle_sha256").to_pylist()) == {manifest}
    assert str(table.schema.field("indices").type) == "fixed_size_list<element: uint16>[16]"
    with vqrae.load(exported, threads=1) as tokenizer:
        expected = tokenizer.encode([Image.open(io.BytesIO(encoded(gray))) for gray in (3, 4)]).indices
    np.testing.assert_array_equal(read_tokens(tmp_path / "out" / "part-000001.parquet", GRID).indices, expected)


def test_layouts_hold_the_same(exported: Path, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "a.parquet", [encoded(gray) for gray in range(5)])
    tokenize_here(exported, data, tmp_path / "parquet", layout="parquet")
    tokenize_here(exported, data, tmp_path / "tar", layout="webdataset")
    first = read_tokens(tmp_path / "parquet" / "part-000000.parquet", GRID)
    second = read_tokens(tmp_path / "tar" / "part-000000.tar", GRID)
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first.indices, second.indices)
    with tarfile.open(tmp_path / "tar" / "part-000000.tar") as archive:
        assert archive.getnames()[:2] == ["000000.npy", "000000.json"]


def test_bad_images_are_dead_letters_with_reasons(exported: Path, tmp_path: Path) -> None:
    images = {"0.png": encoded(0), "bad.png": b"no image", "1.png": encoded(1), "cut.png": encoded(2)[:-30]}
    data = write_tar(tmp_path / "a.tar", images)
    outcome = tokenize_here(exported, data, tmp_path / "out", part_images=2)
    assert (outcome.images, outcome.dead_letters) == (2, 2)
    letters = [json.loads(line) for line in (tmp_path / "out" / "dead-letters.jsonl").read_text().splitlines()]
    assert [letter["key"] for letter in letters] == ["a.tar/bad.png", "a.tar/cut.png"]
    assert "not an image" in letters[0]["reason"]
    assert "damaged data" in letters[1]["reason"]


def test_a_part_without_a_good_image(exported: Path, tmp_path: Path) -> None:
    """Beside others it is one of many; a whole run of such is no success, now and later."""
    write_tar(tmp_path / "a.tar", {"0.png": b"x"})
    for _ in range(2):
        with pytest.raises(DataError, match=r"out: got 0 images, 1 that cannot be read; .*dead-letters\.jsonl"):
            tokenize_here(exported, tmp_path / "a.tar", tmp_path / "out")
    assert read_tokens(tmp_path / "out" / "part-000000.parquet", GRID).indices.shape == (0, 4, 4)
    write_tar(tmp_path / "b.tar", {"1.png": encoded(1)})
    outcome = tokenize_here(exported, f"{tmp_path}/?.tar", tmp_path / "both")
    assert (outcome.images, outcome.dead_letters) == (1, 1)
    assert detokenize_here(exported, tmp_path / "both", tmp_path / "back").images == 1


def test_what_is_done_is_not_done_again_and_the_bytes_are_the_same(exported: Path, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "shards", 2, 6), tmp_path / "out"
    tokenize_here(exported, data, tmp_path / "whole", part_images=4)
    interrupted(Path(shutil.copytree(tmp_path / "whole", out)), lost=["part-000002"])
    (out / ".staging-1234-part-000002.parquet").write_bytes(b"half")
    before = (out / "part-000000.parquet").stat().st_mtime_ns
    outcome = tokenize_here(exported, data, out, part_images=4)
    assert outcome.images == 12
    assert contents(out) == contents(tmp_path / "whole")
    assert (out / "part-000000.parquet").stat().st_mtime_ns == before


def test_a_run_goes_on_only_as_it_was_started(exported: Path, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "shards", 1, 3)
    tokenize_here(exported, data, tmp_path / "out")
    with pytest.raises(UsageError, match="field batch: got 32; expected 4; choose a new folder"):
        tokenize_here(exported, data, tmp_path / "out", batch=4)
    write_shards(tmp_path / "shards", 2, 3)
    with pytest.raises(UsageError, match="field parts: got 1; expected 2"):
        tokenize_here(exported, data, tmp_path / "out")
    with pytest.raises(UsageError, match="got something else; expected a new or empty folder"):
        tokenize_here(exported, data, data)


def test_a_worker_does_not_start_with_another_bundle(exported: Path, tmp_path: Path) -> None:
    from vqrae.runtimes.bundle import Bundle

    with pytest.raises(BundleError, match="expected 000000000000…, as when this was started"):
        Bundle.listed(exported, sha256="0" * 64)


def test_there_and_back(exported: Path, tmp_path: Path) -> None:
    data = write_shards(tmp_path / "shards", 1, 5)
    tokenize_here(exported, data, tmp_path / "tokens", part_images=2)
    assert detokenize_here(exported, tmp_path / "tokens", tmp_path / "images").images == 5
    tokens = read_tokens(tmp_path / "tokens" / "part-000001.parquet", GRID)
    with vqrae.load(exported, threads=1) as tokenizer:
        expected = tokenizer.decode(tokens.indices)
    with Image.open(tmp_path / "images" / "part-000001" / "000.tar" / "003.png.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected[1])
    detokenize_here(exported, tmp_path / "tokens", tmp_path / "tars", layout="webdataset")
    with tarfile.open(tmp_path / "tars" / "part-000001.tar") as archive:
        assert archive.getnames() == ["000000.png", "000000.json", "000001.png", "000001.json"]


def test_tokens_that_are_not_complete_or_of_another_checkpoint(exported: Path, tmp_path: Path) -> None:
    data, out = write_shards(tmp_path / "shards", 1, 3), tmp_path / "out"
    with pytest.raises(DataError, match=r"dataset\.json: got No such file"):
        detokenize_here(exported, tmp_path, tmp_path / "images")
    tokenize_here(exported, data, out)
    job = json.loads((out / "dataset.json").read_text())
    (out / "dataset.json").write_text(json.dumps(job | {"weights_sha256": "0" * 64}))
    with pytest.raises(UsageError, match="use a bundle of the same checkpoint"):
        detokenize_here(exported, out, tmp_path / "images")
    (out / "complete.json").unlink()
    with pytest.raises(DataError, match=r"complete\.json: got No such file"):
        detokenize_here(exported, out, tmp_path / "images")


def test_damaged_tokens(exported: Path, tmp_path: Path) -> None:
    tokenize_here(exported, write_shards(tmp_path / "shards", 1, 3), tmp_path / "out")
    (tmp_path / "out" / "part-000000.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(DataError, match="expected a whole file of tokens"):
        detokenize_here(exported, tmp_path / "out", tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").glob("part-*")] == []


@pytest.mark.parametrize("key", ["../a.png", "/a.png", "a/../../b.png", "C:/a.png", "", ".", "..\\a", "\\a"])
def test_a_key_cannot_leave_its_folder(exported: Path, tmp_path: Path, key: str) -> None:
    tokenize_here(exported, write_shards(tmp_path / "shards", 1, 1), tmp_path / "out")
    indices = np.zeros((1, *GRID), np.uint16)
    path = tmp_path / "out" / "part-000000.parquet"
    write_tokens(path, Tokens([key], ["0" * 64], indices), layout="parquet", bundle_sha256="0" * 64)
    with pytest.raises(DataError, match="got a path that leaves its folder"):
        detokenize_here(exported, tmp_path / "out", tmp_path / "images")


@pytest.mark.parametrize("key", ["a\0.png", "a\x1b[2J.png", "a/" + "n" * 252])
def test_a_key_that_no_file_can_have_is_refused_with_what_can_keep_it(exported: Path, tmp_path: Path, key: str) -> None:
    tokenize_here(exported, write_shards(tmp_path / "shards", 1, 1), tmp_path / "out")
    path = tmp_path / "out" / "part-000000.parquet"
    indices = np.zeros((1, *GRID), np.uint16)
    write_tokens(path, Tokens([key], ["0" * 64], indices), layout="parquet", bundle_sha256="0" * 64)
    with pytest.raises(DataError, match=r"got no name for a file; expected .*; write tars with --format webdataset"):
        detokenize_here(exported, tmp_path / "out", tmp_path / "images")
    assert detokenize_here(exported, tmp_path / "out", tmp_path / "tars", layout="webdataset").images == 1

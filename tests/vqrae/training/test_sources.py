from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pytest
from image_shards import encoded, gray_of, write_parquet, write_shards, write_tar
from PIL import Image
from pyarrow import parquet

from vqrae.images.files import image_files
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.preprocess import open_image
from vqrae.training.data.indexed import FolderImages, IndexedImages
from vqrae.training.data.shuffled import ShuffledStream
from vqrae.training.data.sources import open_images, textures
from vqrae.training.data.streamed import StreamedImages
from vqrae.training.processes import Share

SHARDS, EACH = 6, 10


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), SHARDS, EACH)


def indexed(data: Path | str) -> IndexedImages:
    source = open_images(str(data))
    assert isinstance(source, IndexedImages)
    return source


def streamed(data: Path | str, rank: int = 0, count: int = 1) -> StreamedImages:
    source = open_images(str(data), Share(rank, count))
    assert isinstance(source, StreamedImages)
    return source


def grays(stream: ShuffledStream, count: int) -> list[int]:
    return [gray_of(stream.take()[1]) for _ in range(count)]


def all_grays(source: IndexedImages) -> list[int | None]:
    opened = (source.open(index) for index in range(len(source)))
    return [None if image is None else gray_of(image) for image in opened]


# --- folders ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two hundred images, in two subfolders."""
    for number in range(200):
        path = tmp_path / "images" / f"{number // 100}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    return tmp_path / "images"


def test_a_folder_keeps_the_order_of_its_paths(folder: Path) -> None:
    source = indexed(folder)
    assert isinstance(source, FolderImages)
    assert source.paths == image_files(folder)
    assert all_grays(source) == list(range(200))
    assert source.contents == {path.name: path.stat().st_size for path in source.paths}


def test_one_percent_may_be_unreadable_and_more_stops(folder: Path) -> None:
    for number in (7, 150):
        (folder / f"{number // 100}" / f"{number:03d}.png").write_bytes(b"no image")
    source = indexed(folder)
    expected = [None if number in (7, 150) else number for number in range(200)]
    assert all_grays(source) == expected
    assert all_grays(source) == expected, "met again, counted once"
    assert [Path(name).name for name in source.unreadable.reasons] == ["007.png", "150.png"]
    (folder / "1" / "160.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"got 3 of 200 images that cannot be read, the last: .*160\.png: .*at most 1%"):
        all_grays(indexed(folder))


def test_decoded_photographs_are_kept_within_bounds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = indexed(folder)
    kept = source.open(0)
    assert source.open(0) is kept
    monkeypatch.setattr("vqrae.training.data.indexed.CACHED_BYTES", 10 * 3 * 20 * 14)
    assert all_grays(source) == list(range(200))
    assert source.open(199) is source.open(199)
    assert source.open(0) is not kept


def test_textures_of_a_folder_are_its_first_photographs(folder: Path) -> None:
    expected = [open_image(path) for path in image_files(folder)[:64]]
    assert textures(indexed(folder), 64) == expected
    assert len(textures(indexed(folder), 1000)) == 200
    (folder / "0" / "001.png").write_bytes(b"no image")
    assert [gray_of(image) for image in textures(indexed(folder), 3)] == [0, 2, 3]


# --- Parquet ---


def test_parquet_files_as_datasets_writes_them(tmp_path: Path) -> None:
    for number in range(2):
        write_parquet(tmp_path / "data" / f"{number}.parquet", [encoded(10 * number + gray) for gray in range(5)])
    expected = [*range(5), *range(10, 15)]
    assert all_grays(indexed(tmp_path / "data")) == expected
    assert all_grays(indexed(f"{tmp_path}/data/*.parquet")) == expected
    source = indexed(tmp_path / "data" / "1.parquet")
    assert all_grays(source) == expected[5:]
    assert list(source.contents) == ["1.parquet"]
    assert [gray_of(image) for image in textures(source, 2)] == [10, 11]


@pytest.mark.parametrize("name", ["image", "content"])
@pytest.mark.parametrize("struct", [True, False])
def test_parquet_files_of_other_writers(tmp_path: Path, name: str, struct: bool) -> None:
    images = [{"bytes": encoded(gray), "path": "x"} if struct else encoded(gray) for gray in range(4)]
    parquet.write_table(pyarrow.table({"label": [0] * 4, name: images}), tmp_path / "a.parquet")
    assert all_grays(indexed(tmp_path / "a.parquet")) == [0, 1, 2, 3]


def test_only_the_images_are_copied_and_only_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = [encoded(gray) for gray in range(4)]
    parquet.write_table(pyarrow.table({"text": ["x" * 100_000] * 4, "image": images}), tmp_path / "a.parquet")
    indexed(tmp_path / "a.parquet")
    (arrow,) = (tmp_path / "cache").rglob("*.arrow")
    assert arrow.stat().st_size < 10_000
    written = arrow.stat().st_mtime_ns
    indexed(tmp_path / "a.parquet")
    assert arrow.stat().st_mtime_ns == written
    assert capfd.readouterr() == ("", ""), "no progress bars"
    assert not datasets.utils.are_progress_bars_disabled(), "others' are left alone"


def test_unreadable_rows_of_parquet_are_named(tmp_path: Path) -> None:
    images: list[bytes | None] = [encoded(gray) for gray in range(200)]
    images[3], images[5] = b"no image", None
    source = indexed(write_parquet(tmp_path / "a.parquet", images))
    assert all_grays(source)[2:7] == [2, None, 4, None, 6]
    assert [name.split()[-1] for name in source.unreadable.reasons] == ["3", "5"]


def test_which_column_must_be_clear(tmp_path: Path) -> None:
    images = [encoded(0)]
    parquet.write_table(pyarrow.table({"before": images, "after": images}), tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"got several columns .*before, after.*; expected one column .* name it one"):
        open_images(str(tmp_path / "two.parquet"))
    parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="got the columns label, none of bytes; expected one column of encoded images"):
        open_images(str(tmp_path / "none.parquet"))


def test_damaged_parquet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet" * 100)
    with pytest.raises(DataError, match=r"a\.parquet: got .*; expected whole Parquet files"):
        open_images(str(tmp_path / "a.parquet"))
    assert capfd.readouterr() == ("", ""), "the error is the one line"


def test_parquet_files_of_different_columns(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"image": [encoded(0)]}), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"jpg": [encoded(0)]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="expected whole Parquet files of the same columns"):
        open_images(str(tmp_path))


# --- tars ---


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/{000..005}.tar"])
def test_an_epoch_of_tars_is_every_image_once_in_another_order(shards: Path, pattern: str) -> None:
    stream = ShuffledStream(streamed(f"{shards}{pattern}"), seed=0)
    epochs = [grays(stream, SHARDS * EACH) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(SHARDS * EACH))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert grays(ShuffledStream(streamed(shards), seed=0), 60) == epochs[0]
    assert grays(ShuffledStream(streamed(shards), seed=1), 60) != epochs[0]


def test_images_of_different_shards_are_mixed_within_a_block(shards: Path) -> None:
    stream = ShuffledStream(streamed(shards), seed=0, block=30)
    first = grays(stream, 30)
    assert len({gray // EACH for gray in first}) == 3, "three whole shards"
    assert len({gray // EACH for gray in first[:10]}) == 3


@pytest.mark.parametrize("count", [2, 4])
def test_processes_have_disjoint_shards(shards: Path, count: int) -> None:
    parts = []
    for rank in range(count):
        source = streamed(shards, rank, count)
        mine = len(range(rank, SHARDS, count)) * EACH
        parts.append(grays(ShuffledStream(source, seed=0), mine))
    assert sorted(gray for part in parts for gray in part) == list(range(SHARDS * EACH))


def test_another_epoch_deals_the_shards_anew(shards: Path) -> None:
    stream = ShuffledStream(streamed(shards, 0, 3), seed=0)
    dealt = [frozenset(gray // EACH for gray in grays(stream, 2 * EACH)) for _ in range(6)]
    assert len(set(dealt)) > 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 7, 8, 13, 30, 47])
def test_a_stream_goes_on_where_it_was_stopped(shards: Path, rank: int, taken: int) -> None:
    stream = ShuffledStream(streamed(shards, rank, 2), seed=3, block=8)
    grays(stream, taken)
    state = json.loads(json.dumps(stream.state_dict()))
    expected = [stream.take() for _ in range(70)]
    resumed = ShuffledStream(streamed(shards, rank, 2), seed=3, block=8)
    grays(resumed, 5)  # what was taken before does not matter
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [resumed.take() for _ in range(70)] == expected
    assert resumed.state_dict() == stream.state_dict()


def test_a_position_belongs_to_one_stream(shards: Path) -> None:
    state = ShuffledStream(streamed(shards, 0, 2), seed=0).state_dict()
    for other in (
        ShuffledStream(streamed(shards, 1, 2), seed=0),
        ShuffledStream(streamed(shards), seed=0),
        ShuffledStream(streamed(shards, 0, 2), seed=1),
        ShuffledStream(streamed(f"{shards}/{{000..003}}.tar", 0, 2), seed=0),
    ):
        with pytest.raises(UsageError, match="resume with the data, seed and number of processes"):
            other.load_state_dict(state)


def test_textures_of_a_stream_are_the_same_in_every_process(shards: Path) -> None:
    for rank in range(2):
        assert [gray_of(image) for image in textures(streamed(shards, rank, 2), 15)] == list(range(15))


def test_more_processes_than_shards(shards: Path) -> None:
    with pytest.raises(UsageError, match=r"got 6 shards for 7 processes; expected at least one for each") as caught:
        streamed(shards, 0, 7)
    assert caught.value.exit_code == 2


def test_unreadable_images_of_a_stream_are_left_out_and_named(tmp_path: Path) -> None:
    contents = {f"{gray:03d}.png": encoded(gray) for gray in range(20)} | {"004.png": b"no image"}
    stream = ShuffledStream(streamed(write_tar(tmp_path / "a.tar", contents)), seed=0)
    expected = sorted(set(range(20)) - {4})
    assert sorted(grays(stream, 19)) == expected
    (reason,) = stream.unreadable.reasons.values()
    assert re.search(r"a\.tar image 4 \(004\.png\): got not an image", reason)
    assert [gray_of(image) for image in textures(streamed(tmp_path / "a.tar"), 5)] == [0, 1, 2, 3, 5]
    with pytest.raises(DataError, match=r"got 11 of 2\d\d images that cannot be read, .*at most 1% of them"):
        grays(stream, 19 * 10)


def test_a_stream_of_unreadable_images_stops_at_once(tmp_path: Path) -> None:
    contents = {f"{number}.png": b"no image" for number in range(20)}
    stream = ShuffledStream(streamed(write_tar(tmp_path / "a.tar", contents)), seed=0)
    with pytest.raises(DataError, match="got 11 of 11 images that cannot be read"):
        stream.take()


def test_the_count_of_unreadable_images_survives_a_resume(tmp_path: Path) -> None:
    contents = {f"{gray:03d}.png": encoded(gray) for gray in range(20)} | {"004.png": b"no image"}
    write_tar(tmp_path / "a.tar", contents)
    first = ShuffledStream(streamed(tmp_path / "a.tar"), seed=0)
    grays(first, 19 * 10)
    resumed = ShuffledStream(streamed(tmp_path / "a.tar"), seed=0)
    resumed.load_state_dict(first.state_dict())
    assert resumed.unreadable.count == first.unreadable.count >= 9
    with pytest.raises(DataError, match=r"got 11 of 2\d\d images that cannot be read"):
        grays(resumed, 19 * 2)


def damaged_tars(folder: Path) -> Iterator[Path]:
    whole = write_tar(folder / "whole.tar", {f"{gray}.png": encoded(gray) for gray in range(20)})
    yield write_tar(folder / "empty.tar", {})
    yield write_tar(folder / "texts.tar", {"a.txt": b"text", "b.txt": b"text"})
    yield write_tar(folder / "mixed.tar", {"a.png": encoded(0), "b.jpg": encoded(1)})
    (folder / "no.tar").write_bytes(b"no tar" * 1000)
    yield folder / "no.tar"
    (folder / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    yield folder / "cut.tar"


def test_damaged_and_foreign_tars(tmp_path: Path) -> None:
    for path in damaged_tars(tmp_path):
        with pytest.raises(DataError, match=rf"{path.name}: got .*expected .*") as caught:
            open_images(str(path))
        assert "\n" not in str(caught.value)


def test_a_shard_that_ends_early_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 20)
    whole = (tmp_path / "001.tar").read_bytes()
    (tmp_path / "001.tar").write_bytes(whole[: len(whole) // 2 - 300])  # within an image
    with pytest.raises(DataError, match=r"001\.tar: got .*; expected a whole shard"):
        ShuffledStream(streamed(tmp_path), seed=0).take()


# --- the hub ---


def test_a_dataset_of_the_hub_that_cannot_be_reached() -> None:
    with pytest.raises(DataError, match=r"owner/name: got Couldn't reach 'owner/name' on the Hub .*expected") as caught:
        open_images("owner/name")
    assert "\n" not in str(caught.value)


def test_streamed_parquet_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """As most datasets of the hub are made."""
    files = [
        str(write_parquet(tmp_path / f"{shard}.parquet", [encoded(10 * shard + gray) for gray in range(10)]))
        for shard in range(4)
    ]

    def stream(rank: int) -> ShuffledStream:
        dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        return ShuffledStream(StreamedImages("owner/name", dataset, Share(rank, 2), {}), seed=0, block=7)

    first, other, resumed = stream(0), stream(1), stream(0)
    assert sorted(grays(first, 20) + grays(other, 20)) == list(range(40))
    grays(first, 6)
    resumed.load_state_dict(first.state_dict())
    assert [resumed.take() for _ in range(50)] == [first.take() for _ in range(50)]


def test_a_file_of_its_own_is_opened_by_its_path(folder: Path) -> None:
    """As a dataset of the hub has it that is a folder of images."""
    dataset = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=True)
    source = StreamedImages("owner/name", dataset, Share(), {})
    assert sorted(grays(ShuffledStream(source, seed=0), 200)) == list(range(200))


def test_what_is_nothing_here_and_no_name_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: got no such file or folder; expected a folder, Parquet files, tars"):
        open_images(str(tmp_path / "nowhere"))


def test_shards_beside_a_picture_are_not_trained_on_in_part(tmp_path: Path) -> None:
    """Nor is the picture: which of the two is meant is not guessed (family A)."""
    write_shards(tmp_path / "data", 2, 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "banner.png")
    with pytest.raises(
        DataError, match=r"got 1 images such as banner\.png and 2 tars such as data/000\.tar; expected one"
    ):
        open_images(str(tmp_path))
    assert isinstance(open_images(str(tmp_path / "data")), StreamedImages)


def test_a_link_to_nothing_is_not_trained_without(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"damaged 1: b\.png \(a link to nothing that can be reached\)"):
        open_images(str(tmp_path))

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vqrae
from vqrae.runtimes.errors import BundleError, ImageError, IndicesError, StorageError, UsageError
from vqrae.runtimes.manifest import BatchLimits, read_manifest
from vqrae.runtimes.preprocess import prepare
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(pristine_bundle: Path) -> Iterator[Tokenizer]:
    with vqrae.load(pristine_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(3).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)


def test_a_tokenizer_says_what_it_is(tokenizer: Tokenizer) -> None:
    assert tokenizer.grid == (2, 3)
    assert tokenizer.image_size == (8, 12)
    assert tokenizer.codebook_size == 16
    assert tokenizer.manifest.name == "color-onnxruntime-fp32"


def test_encode_and_decode_compute_what_the_graphs_say(tokenizer: Tokenizer, images: Any, reference: Any) -> None:
    indices, features = tokenizer.encode(images)
    assert (indices.dtype, features.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(indices, reference.indices(images))
    np.testing.assert_allclose(features, reference.features(images), atol=1e-3)
    decoded = tokenizer.decode(indices)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, reference.decode(indices))
    np.testing.assert_array_equal(tokenizer.reconstruct(images), decoded)


def test_one_image_is_a_batch_of_one(tokenizer: Tokenizer, photographs: list[Path]) -> None:
    one = tokenizer.encode(photographs[0])
    assert one.indices.shape == (1, 2, 3)
    assert one.features.shape == (1, 6, 3)
    with Image.open(photographs[0]) as image:
        for same in (str(photographs[0]), image, np.asarray(image), [image]):
            np.testing.assert_array_equal(tokenizer.encode(same).indices, one.indices)


def test_a_list_may_mix_kinds_and_sizes(tokenizer: Tokenizer, photographs: list[Path], images: Any) -> None:
    mixed = tokenizer.encode([photographs[0], images[0], Image.open(photographs[1])]).indices
    for position, image in enumerate([photographs[0], images[0], photographs[1]]):
        np.testing.assert_array_equal(mixed[position], tokenizer.encode(image).indices[0])


def test_a_batch_of_another_size_is_resized(tokenizer: Tokenizer) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tokenizer.encode(batch).indices, tokenizer.encode(list(batch)).indices)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 99])
def test_chunks_change_nothing(tokenizer: Tokenizer, images: Any, batch_size: int) -> None:
    whole = tokenizer.encode(images)
    parts = tokenizer.encode(list(images), batch_size=batch_size)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_array_equal(parts.features, whole.features)
    np.testing.assert_array_equal(
        tokenizer.decode(whole.indices, batch_size=batch_size), tokenizer.decode(whole.indices)
    )


@pytest.mark.parametrize("fixed", [1, 2, 8])
def test_a_fixed_batch_is_filled_and_cut(
    build_bundle: Callable[..., Path], tmp_path: Path, tokenizer: Tokenizer, images: Any, fixed: int
) -> None:
    expected = tokenizer.encode(images)
    with vqrae.load(build_bundle(tmp_path / "fixed", batch=fixed)) as other:
        encoding = other.encode(images)
        np.testing.assert_array_equal(encoding.indices, expected.indices)
        np.testing.assert_array_equal(encoding.features, expected.features)
        np.testing.assert_array_equal(other.decode(encoding.indices), tokenizer.decode(expected.indices))


@pytest.mark.parametrize("streams", [1, 2])
def test_images_prepared_ahead_give_the_same_tokens(
    pristine_bundle: Path, photographs: list[Path], images: Any, streams: int
) -> None:
    with Image.open(photographs[0]) as lazy, vqrae.load(pristine_bundle, threads=2, streams=streams) as loaded:
        mixed = [*photographs, lazy, lazy, *images, str(photographs[1])] * 3
        expected = np.stack([prepare(image, 8, 12) for image in mixed])
        for batch_size in (1, 4, 32):
            found = loaded.encode(mixed, batch_size=batch_size)
            np.testing.assert_array_equal(found.indices, loaded.encode(expected, batch_size=batch_size).indices)


def test_the_next_chunk_is_prepared_while_one_runs(
    pristine_bundle: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, second_ready = [], threading.Event()

    def watched(image: Any, height: int, width: int) -> Any:
        begun.append(image)
        if len(begun) == 4:
            second_ready.set()
        return prepare(image, height, width)

    monkeypatch.setattr("vqrae.runtimes.tokenizer.prepare", watched)
    with vqrae.load(pristine_bundle, threads=1) as loaded:
        session, ahead = loaded.session("encode"), []
        run = session.run

        def waiting(feeds: Any) -> Any:
            assert second_ready.wait(20), "nobody prepares the second chunk"
            ahead.append(len(begun))
            return run(feeds)

        session.run = waiting  # type: ignore[method-assign] # watched
        loaded.encode([photographs[0]] * 40, batch_size=2)
    assert all(count <= 4 + 2 * position for position, count in enumerate(ahead)), "one chunk ahead, no more"


def test_a_damaged_image_late_in_a_list_is_named_and_stops_the_rest(
    pristine_bundle: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, begun = tmp_path / "damaged.png", []
    damaged.write_bytes(photographs[0].read_bytes()[:-200])

    def watched(image: Any, height: int, width: int) -> Any:
        begun.append(image)
        return prepare(image, height, width)

    monkeypatch.setattr("vqrae.runtimes.tokenizer.prepare", watched)
    before = threading.active_count()
    for streams in (1, 2):
        begun.clear()
        with vqrae.load(pristine_bundle, threads=2, streams=streams) as loaded:
            with pytest.raises(ImageError, match=r"damaged\.png: got damaged data"):
                loaded.encode([*[photographs[0]] * 9, damaged, *[photographs[0]] * 500], batch_size=2)
            assert len(begun) <= 10 + 2 * streams, "what was not begun by then is never begun"
        assert threading.active_count() == before


def test_what_needs_no_preparation_starts_no_threads(
    tokenizer: Tokenizer, photographs: list[Path], images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("vqrae.runtimes.tokenizer.done_ahead")
    tokenizer.encode(images)
    tokenizer.encode(list(images), batch_size=2)
    tokenizer.encode(photographs[0])


def test_no_images_are_refused(tokenizer: Tokenizer) -> None:
    for nothing in ([], (), np.zeros((0, 8, 12, 3), np.uint8)):
        with pytest.raises(ImageError, match="images: got none; expected at least one"):
            tokenizer.encode(nothing)


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 12, 3), np.float32), np.zeros((1, 1, 8, 12, 3), np.uint8), 3])
def test_other_objects_are_no_images(tokenizer: Tokenizer, wrong: Any) -> None:
    with pytest.raises(ImageError, match="image: got"):
        tokenizer.encode(wrong)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.zeros((2, 3), np.float32), r"got dtype float32; expected integers \(2, 3\) or \(B, 2, 3\)"),
        (np.zeros((2, 3), np.bool_), "got dtype bool; expected integers"),
        ([["a", "b", "c"]] * 2, "got dtype <U1; expected integers"),
        ([[1, 2, 3], [1, 2]], "got rows of different lengths; expected integers"),
        (np.zeros((3, 2), np.int32), r"got shape \(3, 2\); expected integers \(2, 3\) or \(B, 2, 3\)"),
        (np.zeros(6, np.int32), r"got shape \(6,\)"),
        (np.zeros((1, 1, 2, 3), np.int32), r"got shape \(1, 1, 2, 3\)"),
        (np.zeros((0, 2, 3), np.int32), r"got shape \(0, 2, 3\)"),
        (np.full((2, 3), 16), "got values from 16 to 16; expected 0 to 15"),
        (np.array([[0, 1, 2], [3, -1, 15]]), "got values from -1 to 15; expected 0 to 15"),
        (np.full((2, 3), 2**32, np.uint64), "got values from 4294967296 to 4294967296; expected 0 to 15"),
    ],
)
def test_wrong_indices_are_refused(tokenizer: Tokenizer, indices: Any, message: str) -> None:
    with pytest.raises(IndicesError, match=f"indices: {message}") as caught:
        tokenizer.decode(indices)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_any_integer_dtype_will_do(tokenizer: Tokenizer, dtype: Any) -> None:
    grid = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(tokenizer.decode(grid.astype(dtype)), tokenizer.decode(grid.tolist()))


def test_arguments_are_checked(pristine_bundle: Path, tokenizer: Tokenizer, images: Any) -> None:
    with pytest.raises(UsageError, match="batch_size: got 0; expected at least 1"):
        tokenizer.encode(images, batch_size=0)
    with pytest.raises(UsageError, match="threads: got 0; expected at least 1"):
        vqrae.load(pristine_bundle, threads=0)
    with pytest.raises(UsageError, match="streams: got 0; expected at least 1"):
        vqrae.load(pristine_bundle, streams=0)
    with pytest.raises(UsageError, match=r"cache .*: got a file; expected a folder"):
        vqrae.load(pristine_bundle, cache=pristine_bundle / "manifest.json")


def test_what_a_graph_takes_at_once_is_kept_to(
    build_bundle: Callable[..., Path], rewrite_manifest: Callable[..., None], tmp_path: Path, images: Any
) -> None:
    folder = build_bundle(tmp_path / "limited")
    limits = BatchLimits(least=2, most=4, only=(2, 4))
    graphs = {
        name: graph.model_copy(update={"batch_limits": limits})
        for name, graph in read_manifest(folder / "manifest.json").graphs.items()
    }
    rewrite_manifest(folder, graphs=graphs)
    with vqrae.load(folder) as limited, vqrae.load(build_bundle(tmp_path / "free")) as free:
        sizes: list[int] = []
        session = limited.session("encode")
        run = session.run
        session.run = lambda feeds: (sizes.append(len(feeds["images"])), run(feeds))[1]  # type: ignore[method-assign] # watched
        np.testing.assert_array_equal(limited.encode(images).indices, free.encode(images).indices)
        assert sizes == [4, 2], "five images: four, and one filled up to two"
        limited.encode(images, batch_size=3)
        assert sizes[2:] == [4, 2]
        with pytest.raises(
            UsageError, match="batch_size: got 8; expected at most 4, which encode was built for; export"
        ):
            limited.encode(images, batch_size=8)


@pytest.mark.parametrize("streams", [2, 3])
def test_streams_change_nothing(pristine_bundle: Path, images: Any, streams: int) -> None:
    with vqrae.load(pristine_bundle, threads=1) as one, vqrae.load(pristine_bundle, streams=streams) as several:
        expected, found = (each.encode(images, batch_size=1) for each in (one, several))
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(several.decode(found.indices, batch_size=2), one.decode(found.indices))


def test_every_stream_has_a_share(pristine_bundle: Path, images: Any) -> None:
    with vqrae.load(pristine_bundle, streams=2) as several:
        session, sizes = several.session("encode"), []
        run = session.run
        session.run = lambda feeds: (sizes.append(len(feeds["images"])), run(feeds))[1]  # type: ignore[method-assign] # watched
        several.encode(images[:5])
    assert sorted(sizes) == [2, 3]


def test_all_sessions_close_whichever_fails(pristine_bundle: Path, images: Any) -> None:
    tokenizer = vqrae.load(pristine_bundle)
    sessions = [tokenizer.session(name) for name in ("encode", "decode")]

    def fail() -> None:
        raise StorageError("cache", got="no space")

    sessions[1].close = fail  # type: ignore[method-assign] # stands for kernels that cannot be kept
    with pytest.raises(StorageError):
        tokenizer.close()
    with pytest.raises(UsageError, match="a run after close"):
        sessions[0].run({"images": images})


def test_graphs_are_loaded_when_they_are_needed(pristine_bundle: Path, images: Any) -> None:
    with vqrae.load(pristine_bundle) as fresh:
        assert fresh.execution == {}
        fresh.encode(images)
        assert list(fresh.execution) == ["encode"]
        fresh.decode(np.zeros((2, 3), int))
        assert {name: execution.device for name, execution in fresh.execution.items()} == {
            "decode": "cpu",
            "encode": "cpu",
        }


def test_one_tokenizer_serves_many_threads(pristine_bundle: Path, images: Any, reference: Any) -> None:
    with vqrae.load(pristine_bundle, threads=1) as fresh, ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: fresh.encode(images).indices, range(32)):
            np.testing.assert_array_equal(result, reference.indices(images))
        assert fresh.session("encode") is fresh.session("encode")


def test_a_closed_tokenizer_refuses_to_work(pristine_bundle: Path, images: Any) -> None:
    closed = vqrae.load(pristine_bundle)
    closed.encode(images)
    closed.close()
    closed.close()
    with pytest.raises(UsageError, match="color: got a closed tokenizer; expected an open one"):
        closed.encode(images)


def test_a_changed_graph_is_found_when_it_is_needed(bundle: Path) -> None:
    (bundle / "encode.onnx").write_bytes(b"x" * (bundle / "encode.onnx").stat().st_size)
    with vqrae.load(bundle) as tokenizer:
        tokenizer.decode(np.zeros(tokenizer.grid, np.int32))
        for _ in range(2):
            with pytest.raises(BundleError, match=r"encode\.onnx: got SHA-256"):
                tokenizer.session("encode")


def test_what_is_read_otherwise_is_checked_then(bundle: Path) -> None:
    path = bundle / "golden" / "decoded.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with vqrae.load(bundle) as tokenizer, pytest.raises(BundleError, match=r"decoded\.npy: got SHA-256"):
        tokenizer.bundle.golden()
    with pytest.raises(BundleError, match=r"decoded\.npy: got SHA-256"):
        selftest(bundle)


def test_another_preprocessing_rule_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    values = json.loads(path.read_text())
    values["preprocessing"]["rule"] = "lanczos/1"
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="preprocessing rule: got 'lanczos/1'; expected 'bicubic-center-crop/1'"):
        vqrae.load(bundle)


def test_an_unknown_runtime_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"name": "onnxruntime"', '"name": "onyxruntime"'))
    with pytest.raises(
        UsageError, match=r"got 'onyxruntime'; expected one of onnxruntime, .*; did you mean onnxruntime"
    ):
        vqrae.load(bundle)


def test_a_bundle_without_the_graph_says_so(tokenizer: Tokenizer) -> None:
    with pytest.raises(BundleError, match="got graphs decode, encode; expected a graph quantizer; export it again"):
        tokenizer.session("quantizer")

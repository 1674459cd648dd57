"""What every runtime has to do, written once: a subclass names a format and a precision, and inherits the tests."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from memory import resident_mb
from tiny_models import random_images

from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.comparison import interchange
from vqrae.export.formats import target
from vqrae.export.verify import gather_evidence
from vqrae.runtimes.errors import BundleError, RuntimeUnavailable, UsageError
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.tokenizer import Tokenizer, load

IMAGES = random_images(7).numpy()


class SessionTemplate:
    """Bundles of a small real model, on the real runtime."""

    format_name: ClassVar[str]
    precision: ClassVar[str]
    needs_gpu: ClassVar[bool] = False
    needs_gpu_to_build: ClassVar[bool] = False
    devices: ClassVar[str]
    """How the runtime's devices begin in the message that lists them."""

    @pytest.fixture
    def bundle(self, bundle_of: Callable[..., Path]) -> Path:
        """Not to be changed."""
        self.build_or_skip()
        return bundle_of(self.format_name, self.precision)

    @pytest.fixture
    def tokenizer(self, bundle: Path) -> Iterator[Tokenizer]:
        with load(bundle, threads=1) as tokenizer:
            self.run_or_skip(tokenizer)
            yield tokenizer

    def build_or_skip(self) -> None:
        """A format that is built on a GPU is tested where there is one, and the framework; elsewhere it is skipped."""
        try:
            check_target(target(self.format_name, self.precision))
        except RuntimeUnavailable as error:
            if not self.needs_gpu_to_build:
                raise
            pytest.skip(f"{self.format_name} needs its framework, an NVIDIA GPU and driver ({error.subject})")

    def run_or_skip(self, tokenizer: Tokenizer) -> None:
        """A runtime that needs a GPU is executed where there is one; anywhere else the test is skipped."""
        try:
            tokenizer.session("encode")
        except RuntimeUnavailable:
            if not self.needs_gpu:
                raise
            pytest.skip(f"{self.format_name} needs an NVIDIA GPU and driver")

    def test_shapes_and_dtypes(self, tokenizer: Tokenizer) -> None:
        indices, features = tokenizer.encode(IMAGES[:3])
        assert (indices.dtype, indices.shape) == (np.int32, (3, 4, 4))
        assert (features.dtype, features.shape) == (np.float32, (3, 16, 32))
        images = tokenizer.decode(indices)
        assert (images.dtype, images.shape) == (np.uint8, (3, 32, 32, 3))

    def test_the_batch_is_dynamic(self, tokenizer: Tokenizer) -> None:
        whole, images = tokenizer.encode(IMAGES), tokenizer.decode(tokenizer.encode(IMAGES).indices)
        for batch in (1, 2, 7):
            part = tokenizer.encode(IMAGES[:batch])
            assert (part.indices == whole.indices[:batch]).mean() >= 0.99, "near-ties may fall the other way"
            np.testing.assert_allclose(
                part.features, whole.features[:batch], atol=2e-2 if self.precision == "fp16" else 1e-4
            )
            decoded = tokenizer.decode(whole.indices[:batch])
            assert np.abs(decoded.astype(int) - images[:batch]).max() <= 2

    def test_parity(self, tokenizer: Tokenizer, builder: BundleBuilder) -> None:
        evidence = gather_evidence(tokenizer, builder.reference)
        assert evidence.gate == "pass", evidence.figures
        assert tokenizer.manifest.evidence.gate == "pass"

    def test_tokens_are_understood_by_another_runtime(
        self, tokenizer: Tokenizer, exported: Path, builder: BundleBuilder
    ) -> None:
        reference = builder.reference
        limit = PRECISIONS[tokenizer.manifest.precision.name].limits.max_source_psnr_drop_db
        with load(exported) as other:
            ours, theirs = (each.encode(reference.images).indices for each in (tokenizer, other))
            assert interchange(other, {"ours": ours}, reference)["ours"] <= limit
        assert interchange(tokenizer, {"theirs": theirs}, reference)["theirs"] <= limit

    def test_selftest(self, tokenizer: Tokenizer) -> None:
        report = selftest(tokenizer)
        assert (report.gate, report.preprocessing_equal) == ("pass", True), report.misses

    def test_it_says_what_ran(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode(IMAGES[:1])
        execution = tokenizer.execution["encode"]
        assert execution.runtime == tokenizer.manifest.runtime.name
        assert execution.runtime_version[0].isdigit()
        assert execution.precision

    def test_one_session_serves_many_threads(self, tokenizer: Tokenizer) -> None:
        alone = [tokenizer.encode(image[None]).indices for image in IMAGES]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda image: tokenizer.encode(image[None]).indices, IMAGES))
        np.testing.assert_array_equal(together, alone)

    def test_sessions_in_threads_do_not_disturb_each_other(self, tokenizer: Tokenizer, bundle: Path) -> None:
        expected = tokenizer.encode(IMAGES).indices

        def own_session(_: int) -> Any:
            with load(bundle, threads=1) as own:
                return own.encode(IMAGES).indices

        with ThreadPoolExecutor(3) as pool:
            for indices in pool.map(own_session, range(3)):
                np.testing.assert_array_equal(indices, expected)

    def test_streams_change_nothing(self, tokenizer: Tokenizer, bundle: Path) -> None:
        expected = tokenizer.encode(IMAGES, batch_size=2)
        with load(bundle, threads=2, streams=2) as parallel:
            encoding = parallel.encode(IMAGES, batch_size=2)
        assert (encoding.indices == expected.indices).mean() >= 0.99
        np.testing.assert_allclose(encoding.features, expected.features, atol=1e-2)

    def test_results_are_the_caller_s(self, tokenizer: Tokenizer) -> None:
        first = tokenizer.encode(IMAGES[:2])
        kept = first.indices.copy(), first.features.copy()
        tokenizer.encode(IMAGES[2:4])
        np.testing.assert_array_equal(first.indices, kept[0])
        np.testing.assert_array_equal(first.features, kept[1])

    @pytest.mark.slow
    def test_loading_and_closing_a_hundred_times_leaves_no_memory_behind(
        self, tokenizer: Tokenizer, bundle: Path
    ) -> None:
        gc.freeze()  # or every collection would walk all that the tests hold
        sizes = []
        for rounds in (40, 60):
            for _ in range(rounds):
                with load(bundle, threads=1) as fresh:
                    fresh.encode(IMAGES[:1])
            sizes.append(resident_mb())
        gc.unfreeze()
        assert sizes[1] - sizes[0] < 8, f"{sizes[0]:.0f} MB after 40 rounds, {sizes[1]:.0f} MB after 100"

    def test_an_unknown_device(self, bundle: Path) -> None:
        with load(bundle, device="tpu") as tokenizer, pytest.raises(UsageError, match=self.devices):
            tokenizer.encode(IMAGES[:1])

    def test_a_closed_tokenizer(self, tokenizer: Tokenizer) -> None:
        session = tokenizer.session("encode")
        tokenizer.close()
        with pytest.raises(UsageError, match=r"session: got a run after close; expected an open session"):
            session.run({"images": IMAGES[:1]})

    def test_closing_while_others_run(self, bundle: Path, tokenizer: Tokenizer) -> None:
        """A call that goes on is finished or refused; none waits for ever."""
        expected = tokenizer.encode(IMAGES[:1]).indices
        with load(bundle, threads=1) as other, ThreadPoolExecutor(4) as pool:
            session, feeds = other.session("encode"), {"images": IMAGES[:1]}
            calls = [pool.submit(session.run, feeds) for _ in range(12)]
            other.close()
            for call in calls:
                error = call.exception(60)
                assert error is None or isinstance(error, UsageError)
                if error is None:
                    np.testing.assert_array_equal(call.result()["indices"], expected)

    def test_a_flipped_byte(self, bundle: Path, tmp_path: Path) -> None:
        """In the graph's file, the largest of them if it is a folder, and in every file beside it."""
        graph = read_manifest(bundle / MANIFEST_FILE).graphs["encode"]
        for number, name in enumerate((graph.file, *graph.extra_files)):
            copy = Path(shutil.copytree(bundle, tmp_path / str(number)))
            damaged = max((path for path in (copy / name, *(copy / name).rglob("*")) if path.is_file()), key=size_of)
            content = bytearray(damaged.read_bytes())
            content[len(content) // 2] ^= 1
            damaged.write_bytes(content)
            with load(copy) as tokenizer:
                with pytest.raises(BundleError, match=rf"{damaged.name}: got SHA-256 .*; export it again"):
                    tokenizer.encode(IMAGES[:1])
                assert not tokenizer.execution

    def test_a_file_that_is_no_artifact(self, bundle: Path, tmp_path: Path, rewrite: Callable[[Path], None]) -> None:
        """Even where the hashes fit, a file that the runtime refuses is one line."""
        copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
        artifact = copy / read_manifest(copy / MANIFEST_FILE).graphs["encode"].file
        for path in artifact.rglob("*") if artifact.is_dir() else [artifact]:
            if path.is_file():
                path.write_bytes(b"no artifact")
        rewrite(copy)
        with load(copy) as broken, pytest.raises((BundleError, RuntimeUnavailable)) as caught:
            self.run_or_skip(broken)
        assert "\n" not in str(caught.value)

    def test_another_size_than_the_trained_one(self, bundle_of: Callable[..., Path], larger: BundleBuilder) -> None:
        self.build_or_skip()
        bundle = bundle_of(self.format_name, self.precision, larger)
        with load(bundle, threads=1) as tokenizer:
            assert tokenizer.image_size == (64, 48)
            self.run_or_skip(tokenizer)
            assert gather_evidence(tokenizer, larger.reference).gate == "pass"


def size_of(path: Path) -> int:
    return path.stat().st_size

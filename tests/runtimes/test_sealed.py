"""Family "Bytes": what was verified is what runs (faults 41 and 53)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_models import random_images, tiny_model

import vqrae
from vqrae.checkpoint import open_checkpoint, save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer
from vqrae.runtimes import private_folder
from vqrae.runtimes.archive import manifest_bytes, pack
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, StorageError, UsageError, VqraeError
from vqrae.runtimes.private_folder import PrivateFolder
from vqrae.runtimes.sealed import Sealed, private_copy
from vqrae.runtimes.signature import make_keys, write_signature
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.ovms_repository import write_ovms_repository
from vqrae.serving.triton_repository import write_triton_repository

IMAGES = random_images(2).numpy()
FORMATS = ["onnx", "openvino", "coreml"]


@pytest.fixture(scope="module")
def bundle_of(builder: BundleBuilder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("good")
    made: dict[str, Path] = {}

    def built(name: str) -> Path:
        if name not in made:
            made[name] = Path(builder.build(target(name), folder).bundle)
        return made[name]

    return built


@pytest.fixture(scope="module")
def evil_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """The same tokenizer with other weights, whose files have the same names and sizes."""
    folder = tmp_path_factory.mktemp("evil")
    model = tiny_model()
    for parameter in model.parameters():
        parameter.data = parameter.data.flip(0)
    save_pretrained(model, folder / "model")
    made: dict[str, Path] = {}
    with BundleBuilder(
        VqraeTokenizer(open_checkpoint(str(folder / "model"))), parity_images(None, (32, 32), 2), print
    ) as builder:

        def built(name: str) -> Path:
            if name not in made:
                made[name] = Path(builder.build(target(name), folder).bundle)
            return made[name]

        yield built


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answers(tokenizer: Tokenizer) -> tuple[bytes, bytes]:
    indices = tokenizer.encode(IMAGES).indices
    return indices.tobytes(), tokenizer.decode(np.arange(32, dtype=np.int32).reshape(2, 4, 4)).tobytes()


def loaded_files(bundle: Path) -> list[Path]:
    graphs = Bundle.listed(bundle).manifest.graphs.values()
    named = [bundle / path for graph in graphs for path in (graph.file, *graph.extra_files)]
    return [file for path in named for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_are_overwritten_after_loading_change_no_answer(
    bundle_of: Callable[[str], Path], evil_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    bundle, evil = Path(shutil.copytree(bundle_of(name), tmp_path / "b")), evil_of(name)
    with vqrae.load(bundle) as tokenizer:
        right = answers(tokenizer)
        for file in loaded_files(bundle):
            content = (evil / file.relative_to(bundle)).read_bytes()
            with file.open("r+b") as opened:
                opened.write(content)
        assert answers(tokenizer) == right
        for file in loaded_files(bundle):
            os.truncate(file, 0)
        assert answers(tokenizer) == right
    with vqrae.load(evil) as tokenizer:
        assert answers(tokenizer) != right


@pytest.mark.parametrize("name", FORMATS)
def test_a_graph_that_is_swapped_before_it_is_first_used_never_runs(
    bundle_of: Callable[[str], Path], evil_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """With a key too: what was signed is the manifest that was read, and a later load is compared with that."""
    bundle, evil = Path(shutil.copytree(bundle_of(name), tmp_path / "b")), evil_of(name)
    private, public = make_keys(tmp_path / "key")
    write_signature(bundle, manifest_bytes(bundle), private)
    with vqrae.load(bundle, public_key=public) as tokenizer:
        shutil.rmtree(bundle)
        shutil.copytree(evil, bundle)
        with pytest.raises(BundleError, match=r"got (SHA-256|more than|\d+ bytes)"):
            tokenizer.encode(IMAGES)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_memory_gives_the_same_answers_and_leaves_no_file(
    bundle_of: Callable[[str], Path], home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bundle = bundle_of(name)
    with vqrae.load(bundle) as tokenizer:
        right = answers(tokenizer)
    monkeypatch.setattr(private_folder, "_private_root", lambda: pytest.fail("a file was to be made"))
    with vqrae.load(bundle, sealing="memory") as tokenizer:
        assert answers(tokenizer) == right


def test_a_runtime_that_loads_from_files_only_says_so(bundle_of: Callable[[str], Path]) -> None:
    with (
        vqrae.load(bundle_of("coreml"), sealing="memory") as tokenizer,
        pytest.raises(UsageError, match="sealing: got memory, for coreml; expected disk; it loads from files only"),
    ):
        tokenizer.encode(IMAGES)


@pytest.mark.parametrize("name", FORMATS)
def test_the_copy_is_private_and_gone_once_it_is_loaded(
    bundle_of: Callable[[str], Path], home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[int] = []
    check = Sealed.check

    def checked(sealed: Sealed, files: object) -> None:
        seen.extend(stat.S_IMODE(path.lstat().st_mode) for path in home.rglob("vqrae-sealed-*") if path.is_dir())
        check(sealed, files)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(Sealed, "check", checked)
    with vqrae.load(bundle_of(name)) as tokenizer:
        answers(tokenizer)
        assert set(seen) == {0o700}
        assert list((home / "vqrae").iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(home: Path) -> None:
    code = (
        "import sys; from vqrae.runtimes.private_folder import PrivateFolder\n"
        "folder = PrivateFolder(); (folder.path / 'weights').write_text('x'); print(folder.path, flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    with PrivateFolder():
        assert (left / "weights").exists()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with PrivateFolder() as folder:
        assert {path.name for path in (home / "vqrae").iterdir() if path.is_dir()} == {folder.path.name}
    assert list((home / "vqrae").iterdir()) == []


def test_those_that_are_made_at_once_do_not_sweep_each_other_away(home: Path) -> None:
    def make(number: int) -> bool:
        with PrivateFolder() as folder:
            (folder.path / "weights").write_text(str(number))
            return (folder.path / "weights").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(400)))
    assert list((home / "vqrae").iterdir()) == []


def test_a_name_that_another_process_sweeps_is_left_for_a_new_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []
    take = private_folder.Lock.try_to_take

    def swept_first(path: Path) -> object:
        tried.append(path)
        return None if len(tried) == 1 else take(path)

    monkeypatch.setattr(private_folder.Lock, "try_to_take", swept_first)
    with PrivateFolder() as folder:
        assert folder.path.is_dir()
        assert [path.name for path in tried][1:] == [f"{folder.path.name}.lock"]


def test_a_cache_that_others_may_change_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    with PrivateFolder() as folder:
        assert not folder.path.is_relative_to(home)
    home.chmod(0o1777)
    with PrivateFolder() as folder:
        assert folder.path.is_relative_to(home)
    home.chmod(0o777)
    monkeypatch.setattr(private_folder.tempfile, "gettempdir", lambda: str(home))
    monkeypatch.setattr(private_folder, "_SHARED", (home,))
    message = "private copies: got .* can be written to by others at .*; expected a folder .*sealing='memory'"
    with pytest.raises(StorageError, match=message):
        PrivateFolder()


def test_no_room_for_the_copy_names_what_is_missing(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqrae.runtimes.sealed._pieces", full)
    monkeypatch.setattr("vqrae.runtimes.sealed._cloned", lambda *_: False)
    message = r"got \d+ bytes free for the private copy of encode\.onnx; expected \d+; free some space, .*sealing"
    with vqrae.load(bundle_of("onnx")) as tokenizer, pytest.raises(StorageError, match=message):
        tokenizer.encode(IMAGES)


def test_a_bundle_in_a_hub_cache_loads(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Fault 19: its files are links into a folder of blobs."""
    bundle, snapshot = bundle_of("onnx"), tmp_path / "snapshots" / "main" / "bundle"
    (tmp_path / "blobs").mkdir()
    for file in (path for path in bundle.rglob("*") if path.is_file()):
        blob = tmp_path / "blobs" / str(abs(hash(file)))
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    with vqrae.load(snapshot) as tokenizer, vqrae.load(bundle) as plain:
        assert answers(tokenizer) == answers(plain)


def test_errors_name_the_bundle_and_not_the_copy(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundle_of("coreml"), tmp_path / "b"))
    spec = bundle / "encode.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec.write_bytes(b"\xff" * spec.stat().st_size)
    values = json.loads((bundle / "manifest.json").read_text())
    digest = hashlib.sha256(spec.read_bytes()).hexdigest()
    for entry in values["files"]:
        if bundle / entry["path"] == spec:
            entry["sha256"] = digest
    (bundle / "manifest.json").write_text(json.dumps(values))
    with vqrae.load(bundle) as tokenizer, pytest.raises(VqraeError) as caught:
        tokenizer.encode(IMAGES)
    assert str(bundle / "encode.mlpackage") in str(caught.value)
    assert "vqrae-sealed-" not in str(caught.value)


class TestOpenVinosCache:
    """Fault 53, and what lies in the cache itself."""

    def test_other_weights_at_the_same_path_and_time_are_not_answered_by_the_old_ones(
        self, bundle_of: Callable[[str], Path], evil_of: Callable[[str], Path], tmp_path: Path
    ) -> None:
        place, found = tmp_path / "b", []
        for source in (bundle_of("openvino"), evil_of("openvino")):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(source, place)
            for file in place.rglob("*"):
                os.utime(file, (1, 1))
            with vqrae.load(place, cache=tmp_path / "cache") as tokenizer, vqrae.load(source) as plain:
                assert answers(tokenizer) == answers(plain)
                found.append(answers(tokenizer))
        assert found[0] != found[1]

    def test_a_second_load_takes_what_the_first_has_kept(
        self, bundle_of: Callable[[str], Path], tmp_path: Path
    ) -> None:
        found, kept = [], []
        for _ in range(2):
            with vqrae.load(bundle_of("openvino"), cache=tmp_path / "cache") as tokenizer:
                found.append(answers(tokenizer))
            kept.append({path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()})
        assert len(kept[0]) == 2, "one blob for each graph"
        assert kept[0] == kept[1]
        assert found[0] == found[1]

    def test_a_blob_that_somebody_else_put_there_is_not_used(
        self, bundle_of: Callable[[str], Path], evil_of: Callable[[str], Path], tmp_path: Path
    ) -> None:
        blobs = {}
        for name, source in (("good", bundle_of("openvino")), ("evil", evil_of("openvino"))):
            with vqrae.load(source, cache=tmp_path / name) as tokenizer:
                answers(tokenizer)
            blobs[name] = sorted((tmp_path / name).iterdir(), key=lambda path: path.stat().st_size)
        for good, evil in zip(blobs["good"], blobs["evil"], strict=True):
            shutil.copyfile(evil, good)
        with (
            vqrae.load(bundle_of("openvino"), cache=tmp_path / "good") as tokenizer,
            vqrae.load(bundle_of("openvino")) as plain,
        ):
            assert answers(tokenizer) == answers(plain)


class TestLaterUses:
    """Whatever is made of a bundle is made of bytes that were hashed."""

    @pytest.fixture
    def swapped(
        self,
        bundle_of: Callable[[str], Path],
        evil_of: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Path:
        """A bundle whose files are replaced by another one's, manifest and all, as soon as all of it was checked."""
        bundle, evil = Path(shutil.copytree(bundle_of("openvino"), tmp_path / "b")), evil_of("openvino")
        check_all = Bundle.check_all

        def check_and_swap(opened: Bundle) -> None:
            check_all(opened)
            shutil.rmtree(bundle)
            shutil.copytree(evil, bundle)

        monkeypatch.setattr(Bundle, "check_all", check_and_swap)
        return bundle

    def test_a_signature_is_of_the_manifest_that_was_checked(
        self, swapped: Path, bundle_of: Callable[[str], Path]
    ) -> None:
        assert manifest_bytes(swapped) == (bundle_of("openvino") / "manifest.json").read_bytes()

    @pytest.mark.parametrize("make", [pack, write_ovms_repository, write_triton_repository])
    def test_other_files_than_those_that_were_checked_are_refused(
        self, swapped: Path, tmp_path: Path, make: Callable[[Path, Path], object]
    ) -> None:
        with pytest.raises(BundleError, match=r"got (SHA-256|more than|\d+ bytes)"):
            make(swapped, tmp_path / "made.tar")
        assert not (tmp_path / "made.tar").exists()

    def test_golden_samples_are_those_of_the_manifest(self, swapped: Path) -> None:
        opened = Bundle.open(swapped)
        with pytest.raises(BundleError, match=r"golden/.*got (SHA-256|more than|\d+ bytes)"):
            opened.golden()

    def test_a_pin_is_the_manifest_that_was_read(self, swapped: Path, bundle_of: Callable[[str], Path]) -> None:
        pinned = Bundle.open(swapped).sha256
        assert pinned == Bundle.listed(bundle_of("openvino")).sha256
        with pytest.raises(BundleError, match="as when this was started"):
            Bundle.listed(swapped, sha256=pinned)

    def test_a_server_loads_its_own_copy(self, bundle_of: Callable[[str], Path], tmp_path: Path, home: Path) -> None:
        bundle = Path(shutil.copytree(bundle_of("onnx"), tmp_path / "b"))
        with private_copy(Bundle.listed(bundle)) as copy:
            shutil.rmtree(bundle)
            again = Bundle.listed(copy.path, sha256=copy.sha256, private=True)
            with (
                Tokenizer.from_bundle(again, vqrae.runtimes.LoadOptions()) as tokenizer,
                vqrae.load(bundle_of("onnx")) as plain,
            ):
                assert answers(tokenizer) == answers(plain)
        assert list((home / "vqrae").iterdir()) == []

"""A run that goes on: only with parts that are what was written, sources that are what they were, and alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from image_shards import encoded, write_shards
from small_disk import small_disk
from tokenize_here import detokenize_here, interrupted, parts_of, tokenize_here

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.lock import Lock

MADE = {"part_images": 2}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(number))
    return folder


@pytest.fixture(scope="module")
def whole(exported: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    tokenize_here(exported, pictures, folder, **MADE)
    return folder


class Killed:
    """A run of three parts, the last of which is not done, on pictures that may be changed."""

    def __init__(self, bundle: Path, pictures: Path, whole: Path, place: Path) -> None:
        self.bundle, self.notes = bundle, list[str]()
        self.data = Path(shutil.copytree(pictures, place / "data"))
        self.out = interrupted(Path(shutil.copytree(whole, place / "out")), lost=["part-000002"])
        files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(self.data.iterdir())}
        (self.out / "reports" / "sources.json").write_text(json.dumps({"files": files}))

    def resume(self, **changed: Any) -> None:
        tokenize_here(self.bundle, self.data, self.out, note=self.notes.append, **MADE, **changed)


@pytest.fixture
def killed(exported: Path, pictures: Path, whole: Path, tmp_path: Path) -> Killed:
    return Killed(exported, pictures, whole, tmp_path)


def test_nothing_is_done_again_or_said_where_nothing_happened(killed: Killed, whole: Path) -> None:
    before = [path.stat().st_mtime_ns for path in parts_of(killed.out)]
    killed.resume()
    assert [path.stat().st_mtime_ns for path in parts_of(killed.out)][:2] == before
    assert contents(killed.out) == contents(whole)
    assert killed.notes == []


@pytest.mark.parametrize("damage", ["emptied", "cut", "flipped", "of another part", "gone", "a folder"])
@pytest.mark.parametrize("of", ["part", "report"])
def test_a_finished_part_that_is_not_what_was_written_is_done_again(
    killed: Killed, whole: Path, damage: str, of: str
) -> None:
    parts = parts_of(killed.out) if of == "part" else sorted((killed.out / "reports").glob("part-*"))
    content = bytearray(parts[0].read_bytes())
    content[len(content) // 2] ^= 1
    changes = {"emptied": b"", "cut": content[:-9], "flipped": content, "of another part": parts[1].read_bytes()}
    if damage in changes:
        parts[0].write_bytes(changes[damage])
    else:
        parts[0].unlink()
    if damage == "a folder" and of == "part":
        parts[0].mkdir()
        with pytest.raises(UsageError, match="got a folder"):
            killed.resume()
        return
    killed.resume()
    assert contents(killed.out) == contents(whole)
    if of == "part" and damage != "gone":
        assert killed.notes == ["1 parts are not what was written, or lack the hash of later versions: done again"]


def test_parts_of_an_earlier_version_which_wrote_no_hashes_are_done_again(killed: Killed, whole: Path) -> None:
    for report in (killed.out / "reports").iterdir():
        report.write_text('{"images": 2, "dead": []}')
    (killed.out / "reports" / "sources.json").unlink()
    killed.resume()
    assert contents(killed.out) == contents(whole)
    assert killed.notes[0].startswith("2 parts are not")


@pytest.mark.parametrize("number", [1, 5])
def test_an_image_that_changed_between_kill_and_resume_is_refused_by_its_name(killed: Killed, number: int) -> None:
    """Number 1 is in a part that is done, 5 in one that is not."""
    (killed.data / f"{number}.png").write_bytes(encoded(77) + b"more")
    before = contents(killed.out)
    message = f"data: got other content than when the run began in {number}.png; expected the same data until"
    with pytest.raises(UsageError, match=message):
        killed.resume()
    assert contents(killed.out) == before


def test_an_image_of_the_same_size_that_changed_is_refused(killed: Killed) -> None:
    path = killed.data / "0.png"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError, match=r"began in 0\.png;"):
        killed.resume()


def test_an_image_that_is_gone_is_refused(killed: Killed) -> None:
    (killed.data / "0.png").unlink()
    (killed.data / "00.png").write_bytes(encoded(0))
    with pytest.raises(
        UsageError, match=r"got 1 files more, such as 00\.png and 1 files fewer, such as 0\.png; expected"
    ):
        killed.resume()


def test_a_data_set_that_was_touched_or_copied_goes_on_and_what_was_not_compared_is_told(
    killed: Killed, whole: Path
) -> None:
    for path in killed.data.iterdir():
        os.utime(path, (1, 1))
    killed.data = killed.data.rename(killed.data.with_name("moved"))
    killed.resume()
    assert contents(killed.out) == contents(whole)
    assert killed.notes == ["2 files of parts not done yet have another time than at the start: read as they are"]


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b'{"files": {"0.png": [1]}}'])
def test_damaged_notes_about_the_sources_lead_to_a_comparison_of_their_content(
    killed: Killed, whole: Path, damage: bytes
) -> None:
    (killed.out / "reports" / "sources.json").write_bytes(damage)
    killed.resume()
    assert contents(killed.out) == contents(whole)


def test_a_run_that_is_over_is_opened_again_where_a_part_was_lost(
    exported: Path, pictures: Path, whole: Path, tmp_path: Path
) -> None:
    out, notes = Path(shutil.copytree(whole, tmp_path / "out")), list[str]()
    parts_of(out)[1].write_bytes(b"")
    tokenize_here(exported, pictures, out, note=notes.append, **MADE)
    assert contents(out) == contents(whole)
    assert notes[0] == "the run was over, but 1 parts are not what was written, such as part-000001"


def test_a_second_run_is_refused_with_the_first_s_process(exported: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Lock.take(tmp_path / "out" / ".lock", subject="", expected=""):
        with pytest.raises(UsageError, match=f"out: got in use by another run, process {os.getpid()};"):
            tokenize_here(exported, pictures, tmp_path / "out")
        with pytest.raises(UsageError, match=f"out: got in use by another run, process {os.getpid()};"):
            detokenize_here(exported, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("layout", ["folder", "webdataset"])
def test_decoded_parts_are_checked_like_those_of_tokens(
    exported: Path, whole: Path, tmp_path: Path, layout: str
) -> None:
    detokenize_here(exported, whole, tmp_path / "images", layout=layout)
    out = Path(shutil.copytree(tmp_path / "images", tmp_path / "out"))
    part = parts_of(out)[0]
    (part / "0.png.png" if layout == "folder" else part).write_bytes(b"")
    detokenize_here(exported, whole, out, layout=layout)
    assert contents(out) == contents(tmp_path / "images")


def test_tokens_that_changed_are_not_mixed_into_decoded_images(exported: Path, whole: Path, tmp_path: Path) -> None:
    tokens, out = Path(shutil.copytree(whole, tmp_path / "tokens")), tmp_path / "images"
    detokenize_here(exported, tokens, out, layout="webdataset")
    interrupted(out, lost=["part-000002"])
    shutil.copy(parts_of(tokens)[1], parts_of(tokens)[0])
    with pytest.raises(UsageError, match=r"began in part-000000\.parquet"):
        detokenize_here(exported, tokens, out, layout="webdataset")


@pytest.mark.slow
def test_a_full_disk_ends_tokenize_with_exit_code_1_and_what_is_missing(exported: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 1, 60)
    with small_disk(tmp_path / "disk") as disk:
        (disk / "filling").write_bytes(bytes(2**20 - 20_000))
        command = [sys.executable, "-m", "vqrae", "tokenize", exported, tmp_path / "shards", "-o", disk / "out"]
        ended = subprocess.run([*command, "--format", "webdataset"], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert "No space left on device: " in ended.stderr.splitlines()[-1]
    assert "free; free some space or choose another disk" in ended.stderr.splitlines()[-1]
    assert ended.returncode == 1

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vqrae.benchmarks.studies.outputs import calls, commands, kills, missing_syncs, trace
from vqrae.benchmarks.studies.tokenize_kills import write_data
from vqrae.tokenizing.token_files import read_tokens

WHOLE = r"""
11 mkdir("/o/.staging-1-b", 0777)        = 0
11 openat(AT_FDCWD</w>, "/o/.staging-1-b/x", O_RDWR|O_CREAT, 0666) = 3</o/.staging-1-b/x>
12 openat(AT_FDCWD</w>, "/elsewhere", O_RDONLY) = 3</elsewhere>
11 fsync(3</o/.staging-1-b/x> <unfinished ...>
12 rename("/a", "/b")                = -1 ENOENT (No such file or directory)
11 <... fsync resumed>)              = 0
11 fsync(4</o/.staging-1-b>)         = 0
11 renameat2(AT_FDCWD</w>, "/o/.staging-1-b", AT_FDCWD</w>, "/o/b", RENAME_NOREPLACE) = 0
11 fsync(4</o>)                      = 0
"""


def test_renames_whose_syncs_are_all_there() -> None:
    traced = list(calls(WHOLE))
    assert [call.kind for call in traced] == ["made", "made", "synced", "synced", "renamed", "synced"]
    assert missing_syncs(traced, Path("/o")) == []


@pytest.mark.parametrize(
    ("without", "wrong"),
    [
        ("11 <... fsync resumed>)              = 0\n", "/o/.staging-1-b/x was not synced before /o/b counted"),
        ("11 fsync(4</o/.staging-1-b>)         = 0\n", "/o/.staging-1-b was not synced before /o/b counted"),
        ("11 fsync(4</o>)                      = 0\n", "/o was not synced after /o/b came there"),
    ],
)
def test_a_sync_that_is_missing_is_found(without: str, wrong: str) -> None:
    assert missing_syncs(list(calls(WHOLE.replace(without, ""))), Path("/o")) == [wrong]


def test_what_a_library_renames_inside_has_to_be_synced_under_its_new_name() -> None:
    inner = '11 rename("/o/.staging-1-b/x", "/o/.staging-1-b/y") = 0\n11 fsync(4</o/.staging-1-b>)'
    traced = list(calls(WHOLE.replace("11 fsync(4</o/.staging-1-b>)", inner)))
    assert missing_syncs(traced, Path("/o")) == ["/o/.staging-1-b/y was not synced before /o/b counted"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export", "tokenize", "train"])
def test_a_killed_command_leaves_the_old_output_or_the_new_one_and_goes_on(
    name: str, exported: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", 24)
    command = commands(Path("assets/vqrae-tiny").resolve(), exported, data)[name]
    if name == "tokenize":  # the tests' own tokenizer has another grid
        command = command._replace(look=lambda path: str([read_tokens(part, (4, 4)) for part in path.glob("part-*")]))
    found = kills(command, tmp_path, 3)
    assert (found["half"], found["left"], found["same"]) == ([], [], True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: `apt-get install strace`")
@pytest.mark.parametrize("name", ["export", "tokenize", "train"])
def test_no_rename_counts_before_what_it_names_is_on_the_disk(name: str, exported: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 24)
    found = trace(commands(Path("assets/vqrae-tiny").resolve(), exported, data)[name], tmp_path)
    assert found["missing"] == []
    assert found["renames"]

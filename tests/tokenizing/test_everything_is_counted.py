"""A tree with every case in it: taken, left out and damaged together are what is there, by name (families A, B, C)."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from image_shards import encoded, write_parquet, write_tar
from tokenize_here import tokenize_here

from vqrae.tokenizing.job import read_aside
from vqrae.tokenizing.token_files import read_tokens


def save(folder: Path, name: bytes | str, content: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + os.fsencode(name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    save(made, "assets/banner.png", encoded(0))
    for name in ("a.jfif", "b.PNG", b"caf\xe9.png", "none.png"):
        save(made, name, b"none" if name == "none.png" else encoded(1))
    for name in ("._a.png", "__MACOSX/x.png", "c.avif", "labels.txt"):
        save(made, name, encoded(2))
    write_tar(made / "data" / "0.tar", {"0.png": encoded(3), "0.txt": b"", "1.png": b"none"})
    damaged = write_tar(made / "data" / "1.tar", {f"{n}.png": encoded(n) for n in range(3)})
    content = bytearray(damaged.read_bytes())
    content[1024 + 5] ^= 1
    damaged.write_bytes(content)
    with tarfile.open(made / "data" / "2.tar", "w") as archive:
        for name in ("a.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(encoded(4))
            archive.addfile(info, io.BytesIO(encoded(4)))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
    write_parquet(made / "rows.parquet", [encoded(5), None])
    (made / "linked").symlink_to("assets")
    (tmp_path / "other").mkdir()
    save(tmp_path / "other", "z.png", encoded(6))
    (made / "other").symlink_to("../other")
    os.mkfifo(made / "pipe.png")
    return made


TAKEN = [
    *("a.jfif", "assets/banner.png", "b.PNG", r"caf\xe9.png", "other/z.png"),
    *("rows.parquet/0", "data/0.tar/0.png", "data/1.tar/0.png", "data/1.tar/2.png"),
    *("data/2.tar/a.png", "data/2.tar/b.png"),
]
LEFT_OUT = {
    "._a.png": "hidden",
    "__MACOSX/x.png": "hidden",
    "c.avif": "unread format",
    "data/0.tar/0.txt": "other",
    "data/2.tar/a.png": "repeated",
    "labels.txt": "other",
    "linked": "link",
    "pipe.png": "special",
}
DAMAGED = ["data/0.tar/1.png", "data/1.tar", "none.png", "rows.parquet/1"]


def test_all_is_told_in_the_record(exported: Path, tree: Path, tmp_path: Path) -> None:
    outcome = tokenize_here(exported, tree, tmp_path / "out")
    keys = [key for file in sorted((tmp_path / "out").glob("*.parquet")) for key in read_tokens(file, (4, 4)).keys]
    aside = read_aside(tmp_path / "out")
    assert sorted(keys) == sorted(TAKEN)
    assert {it.key: it.why for it in aside.left_out} == LEFT_OUT
    assert sorted(it.key for it in aside.damaged) == DAMAGED
    assert outcome.taken == {"images": 5, "parquet": 1, "tar": 5}
    assert (outcome.images, outcome.dead_letters, sum(outcome.left_out.values())) == (11, 4, 8)


def test_people_and_programs_are_told(
    exported: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqrae.cli.tokenize import print_outcome

    outcome = tokenize_here(exported, tree, out := tmp_path / "out")
    print_outcome(out, outcome, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert {it["key"]: it["why"] for it in told["names"]["left_out"]} == LEFT_OUT
    assert sorted(it["key"] for it in told["names"]["damaged"]) == DAMAGED
    print_outcome(out, outcome, as_json=False)
    first, left_out, damaged = capsys.readouterr().out.splitlines()
    assert first == f"{out}: 11 images (5 in files of their own, 1 in Parquet files, 5 in tars)"
    assert left_out.startswith("left out 8: 2 hidden (._a.png, __MACOSX/x.png), ")
    assert damaged.startswith("damaged 4: ")

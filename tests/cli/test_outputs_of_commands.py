"""What `-o` may be, in every verb: apart from the inputs and each other, named for what it holds, a plain file."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqrae.cli.app import main
from vqrae.runtimes.staging import staged_file, staged_folder


@pytest.fixture
def place(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle, an image, tokens, and two files that would be lost."""
    shutil.copytree(exported, tmp_path / "bundle")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    np.save(tmp_path / "t.npy", np.zeros((1, 4, 4), np.int32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line: str, message: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("vqrae: ")]
    assert (ended.value.code, len(lines)) == (code, 1), told
    assert message in lines[0]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("encode bundle a.png -o x.npy --features x.npy", "--features x.npy: got x.npy, in which --output is"),
        ("encode bundle a.png -o x.npy --features ./x.npy", "another place than that of --output"),
        ("encode bundle a.png -o x.npy --features X.NPY", "another place than that of --output"),
        ("encode bundle a.png -o x.npy --features linked/x.npy", "another place than that of --output"),
        ("bench bundle --bundles-only -o x.json -o ./x.json", "another place than that of output 1"),
        ("bench bundle --bundles-only -o bundle/manifest.json", "got what the command reads"),
        ("encode bundle a.png -o bundle/x.npy", "got what the command reads; expected a place apart from bundle"),
        ("encode bundle a.png -o x.npz", "x.npz: got suffix '.npz'; expected .npy"),
        ("encode bundle a.png -o x.npy --features x", "x: got suffix ''; expected .npy"),
        ("encode bundle a.png -o bundle", "bundle: got suffix ''"),
        ("encode bundle a.png -o here.npy", "here.npy: got a folder; expected the name of a file"),
        ("decode bundle t.npy -o t.npy --overwrite", "got what the command reads"),
        ("decode bundle here.npy/t.npy -o here.npy --overwrite", "got what the command reads"),
        ("decode bundle t.npy -o bundle --overwrite", "got what the command reads"),
        ("reconstruct bundle a.png -o a.png", "got what the command reads; expected a place apart from a.png"),
        ("reconstruct bundle a.png -o linked/a.png", "got what the command reads"),
        ("generate bundle x --model here.npy -o x.npz", "x.npz: got suffix '.npz'; expected a folder's name, or one"),
        ("generate bundle x --model here.npy -o x.PNG", "x.PNG: got suffix '.PNG'"),
        ("generate bundle x --model here.npy -o bundle --overwrite", "got what the command reads"),
        ("eval bundle --data . --picture a.png", "--picture a.png: got what the command reads"),
        ("eval bundle --data here.npy --picture bundle/x.png", "got what the command reads"),
        ("pack bundle -o bundle.tar.gz", "bundle.tar.gz: got suffix '.gz'; expected .tar"),
        ("pack bundle -o bundle/b.tar", "got a file inside the bundle"),
        ("unpack here.npy/b.tar -o here.npy --overwrite", "got what the command reads"),
        ("tokenize bundle here.npy -o bundle/tokens", "got what the command reads"),
        ("package bundle --for triton -o bundle --overwrite", "got what the command reads"),
    ],
)
def test_an_output_that_would_be_lost_or_lie_about_itself_is_refused_before_the_work(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    (place / "linked").symlink_to(".")
    (place / "here.npy").mkdir()
    shutil.copy(place / "t.npy", place / "here.npy" / "t.npy")
    (place / "here.npy" / "b.tar").write_text("")
    before = contents(place)
    refused(line, message, capsys)
    assert contents(place) == before


@pytest.mark.parametrize(
    "line",
    [
        "encode bundle a.png -o {}.npy",
        "encode bundle a.png -o x.npy --features {}.npy",
        "decode bundle t.npy -o {} --overwrite",
        "reconstruct bundle a.png -o {}.png",
        "pack bundle -o {}.tar",
        "bench bundle --bundles-only -o {}.json",
        "package bundle --for triton -o {} --overwrite",
        "photographs {} --overwrite",
        "eval bundle --data . --picture {}.png",
        "tokenize bundle a.png -o {}",
        "detokenize bundle bundle -o {}",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_device_or_a_pipe_is_refused_and_stays(
    place: Path, capsys: pytest.CaptureFixture[str], line: str, kind: str
) -> None:
    target = Path(line.split("{}")[1].split()[0] if "{}." in line else "").name
    odd = place / f"odd{target}"
    if kind == "pipe":
        os.mkfifo(odd)
    elif os.geteuid():
        pytest.skip("only root makes devices")
    else:
        os.mknod(odd, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    mode = odd.stat().st_mode
    refused(line.format("odd"), f"got a {kind}; expected the name of a", capsys)
    assert odd.stat().st_mode == mode


@pytest.mark.parametrize("line", ["encode bundle a.png -o x.npy", "reconstruct bundle a.png -o x.png"])
def test_a_second_command_on_the_same_file_is_refused_with_the_first_s_process(
    place: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    with staged_file(place / line.rpartition(" ")[2]) as held:
        refused(line, f"got in use by another run, process {os.getpid()}", capsys)
        held.write_text("whole")


def test_a_second_decode_or_export_of_the_same_folder_is_refused_before_the_work(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with staged_folder(place / "images"), staged_folder(place / "vqrae-tiny-onnx-fp32"):
        refused("decode bundle t.npy -o images", f"process {os.getpid()}", capsys)
        refused("export tiny -o .", f"process {os.getpid()}", capsys)


def test_a_link_that_leads_to_itself_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "loop.npy").symlink_to("loop.npy")
    refused("encode bundle a.png -o loop.npy", "loop.npy: got Too many levels of symbolic links", capsys, code=1)


def test_tokens_and_features_are_both_there_or_neither(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(place / "f.npy")
    refused("encode bundle a.png -o x.npy --features f.npy", "got a pipe", capsys)
    assert not (place / "x.npy").exists()

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vqrae.runtimes import load
from vqrae.runtimes.archive import manifest_bytes, pack, unpack
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError, StorageError, UsageError

Edit = Callable[[Callable[[Any], None]], None]
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def archive(bundle: Path, tmp_path: Path) -> Path:
    return pack(bundle, tmp_path / "color.tar")


def members(archive: Path) -> Members:
    with tarfile.open(archive) as tar:
        return [(member, content.read() if (content := tar.extractfile(member)) else b"") for member in tar]


def written(archive: Path, contents: Members) -> Path:
    """An archive as an attacker writes it: whatever the members say."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in contents:
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return archive


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_there_and_back(bundle: Path, archive: Path, tmp_path: Path) -> None:
    unpacked = unpack(archive, tmp_path / "again")
    assert unpacked == Bundle.open(tmp_path / "again")
    assert unpacked.manifest == Bundle.open(bundle).manifest
    files = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()]
    assert len(files) == len(unpacked.manifest.files) + 1
    assert all((bundle / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_equal_bundles_give_equal_bytes(bundle: Path, archive: Path, tmp_path: Path) -> None:
    """Neither the time, the owner's mask, nor the order of a folder's entries shows."""
    before = os.umask(0o077)
    try:
        copy = Path(shutil.copytree(bundle, tmp_path / "other", copy_function=shutil.copyfile))
    finally:
        os.umask(before)
    os.utime(copy / "encode.onnx", (1, 1))
    assert pack(copy, tmp_path / "other.tar").read_bytes() == archive.read_bytes()


def test_the_members_are_plain_files_in_the_manifests_order(bundle: Path, archive: Path) -> None:
    found = [member for member, _ in members(archive)]
    listed = [entry.path for entry in Bundle.open(bundle).manifest.files]
    assert [member.name for member in found] == ["manifest.json", *listed]
    facts = {(m.type, m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname) for m in found}
    assert facts == {(tarfile.REGTYPE, 0o644, 0, 0, 0, "", "")}


def test_the_first_header_is_fixed(archive: Path) -> None:
    """A change here is a change of the format."""
    header = archive.read_bytes()[:512]
    size = f"{len(members(archive)[0][1]):011o}".encode()
    start = b"manifest.json".ljust(100, b"\0") + b"0000644\x000000000\x000000000\x00" + size + b"\x0000000000000\0"
    assert header[:148] == start
    assert header[156:500].rstrip(b"\0") == b"0" + b"\0" * 100 + b"ustar\x0000"
    assert int(header[148:154], 8) == sum(header[:148] + b" " * 8 + header[156:])


def test_what_gnu_tar_packs_in_this_order_unpacks(bundle: Path, tmp_path: Path) -> None:
    made = [(member, content) for member, content in members(pack(bundle, tmp_path / "ours.tar"))]
    for member, _ in made:
        member.mtime, member.uid, member.uname, member.mode = 10**9, 1000, "someone", 0o777
    unpack(written(tmp_path / "theirs.tar", made), tmp_path / "again")
    assert (tmp_path / "again" / "encode.onnx").stat().st_mode & 0o111 == 0


def test_a_changed_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "encode.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"encode\.onnx: got 5 bytes"):
        pack(bundle, tmp_path / "color.tar")
    assert left_in(tmp_path) == {"color"}


def test_an_archive_inside_its_bundle_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="got a file inside the bundle; expected one elsewhere"):
        pack(bundle, bundle / "golden" / "color.tar")


def test_a_path_that_a_tar_cannot_hold_is_refused(
    bundle: Path, tmp_path: Path, rewrite_manifest: Callable[..., None]
) -> None:
    deep = bundle / ("d" * 120) / ("f" * 120)
    deep.parent.mkdir()
    deep.write_bytes(b"x")
    rewrite_manifest(bundle)
    with pytest.raises(BundleError, match="expected at most 255 bytes of path and 8 GiB of content; ship the folder"):
        pack(bundle, tmp_path / "color.tar")
    assert left_in(tmp_path) == {"color"}


def hostile(path: str, **changes: Any) -> Callable[[Members], None]:
    """Change one member of a good archive."""

    def change(contents: Members) -> None:
        (member,) = [member for member, _ in contents if member.name == path]
        for attribute, value in changes.items():
            setattr(member, attribute, value)

    return change


def swapped(contents: Members) -> None:
    contents[1], contents[2] = contents[2], contents[1]


def twice(contents: Members) -> None:
    contents.insert(2, contents[1])


def longer(contents: Members) -> None:
    member, content = contents[1]
    member.size += 512
    contents[1] = member, content + b"\0" * 512


def link_before(contents: Members) -> None:
    """A folder that is a link out of the bundle, through which a later member would write."""
    link = tarfile.TarInfo("golden")
    link.type, link.linkname = tarfile.SYMTYPE, "../outside"
    contents.insert(3, (link, b""))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (hostile("encode.onnx", name="../encode.onnx"), r"got a file '\.\./encode\.onnx'"),
        (hostile("encode.onnx", name="/tmp/encode.onnx"), "got a file '/tmp/encode.onnx'"),  # noqa: S108
        (hostile("encode.onnx", name="golden/../../encode.onnx"), r"got a file 'golden/\.\./\.\./encode\.onnx'"),
        (hostile("encode.onnx", name="C:\\encode.onnx"), "got a file"),
        (hostile("encode.onnx", name="./encode.onnx"), "got a file"),
        (hostile("encode.onnx", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "got a symbolic link"),
        (hostile("encode.onnx", type=tarfile.LNKTYPE, linkname="decode.onnx"), "got a hard link"),
        (hostile("encode.onnx", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "got a device"),
        (hostile("encode.onnx", type=tarfile.BLKTYPE), "got a device"),
        (hostile("encode.onnx", type=tarfile.FIFOTYPE), "got a pipe"),
        (hostile("encode.onnx", type=tarfile.DIRTYPE), "got a folder"),
        (hostile("encode.onnx", type=tarfile.GNUTYPE_SPARSE), "got a sparse file"),
        (hostile("encode.onnx", type=b"x"), "got a member of type b'x'"),
        (swapped, "got a file 'encode.onnx' of .* expected the file decode.onnx"),
        (twice, "got a file 'decode.onnx' of .* expected the file encode.onnx"),
        (longer, "expected the file decode.onnx of"),
        (link_before, "got a symbolic link 'golden'"),
    ],
)
def test_whatever_the_manifest_does_not_say_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Members], None], message: str
) -> None:
    """The archive's length alone would tell; that check is taken away, so that the headers have to."""
    monkeypatch.setattr("vqrae.runtimes.archive._check_length", lambda *_: None)
    (tmp_path / "outside").mkdir()
    contents = members(archive)
    change(contents)
    written(archive, contents)
    with pytest.raises(BundleError, match=message):
        unpack(archive, tmp_path / "again")
    assert left_in(tmp_path) == {"color", "color.tar", "outside"}
    assert left_in(tmp_path / "outside") == set()


@pytest.mark.parametrize("change", [twice, longer, link_before])
def test_another_length_is_refused_before_anything_is_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Members], None]
) -> None:
    contents = members(archive)
    contents.append((tarfile.TarInfo("filling"), b""))
    contents[-1][0].size = 20_000
    contents[-1] = (contents[-1][0], b"\0" * 20_000)
    change(contents)
    written(archive, contents)
    monkeypatch.setattr("vqrae.runtimes.archive.staged_folder", None)  # would be an error of its own
    with pytest.raises(BundleError, match=r"got \d+ bytes; expected \d+ bytes, as its manifest says"):
        unpack(archive, tmp_path / "again")


def test_ten_gigabytes_of_zeros_are_refused_at_once(archive: Path, tmp_path: Path) -> None:
    zeros = tmp_path / "zeros.tar"
    zeros.touch()
    os.truncate(zeros, 10 * 2**30)  # takes no room on the disk
    with pytest.raises(BundleError, match=r"zeros\.tar: got no tar header .* expected a packed bundle"):
        unpack(zeros, tmp_path / "again")
    os.truncate(archive, 10 * 2**30)
    with pytest.raises(BundleError, match="got 10737418240 bytes; expected"):
        unpack(archive, tmp_path / "again")
    assert left_in(tmp_path) == {"color", "color.tar", "zeros.tar"}


def test_a_manifest_that_promises_more_than_the_disk_holds_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("vqrae.runtimes.staging.shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"again: got 1,000 bytes free; expected .*; free [\d,]+ more, or choose"):
        unpack(archive, tmp_path / "again")
    assert left_in(tmp_path) == {"color", "color.tar"}


def test_an_oversize_manifest_is_refused_before_it_is_read(archive: Path, tmp_path: Path) -> None:
    contents = members(archive)
    contents[0] = contents[0][0], b" " * (4 * 2**20 + 1)
    contents[0][0].size = len(contents[0][1])
    written(archive, contents)
    with pytest.raises(BundleError, match=r"first member: got a file 'manifest\.json' of 4194305 bytes; expected .*"):
        unpack(archive, tmp_path / "again")


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_found(archive: Path, tmp_path: Path, position: float) -> None:
    content = bytearray(archive.read_bytes())
    content[int(len(content) * position)] ^= 1
    archive.write_bytes(content)
    with pytest.raises(BundleError):
        unpack(archive, tmp_path / "again")
    assert left_in(tmp_path) == {"color", "color.tar"}


@pytest.mark.parametrize("length", [0, 100, 512, 700, 5000])
def test_a_cut_archive_is_refused(archive: Path, tmp_path: Path, length: int) -> None:
    os.truncate(archive, length)
    with pytest.raises(BundleError):
        unpack(archive, tmp_path / "again")
    assert left_in(tmp_path) == {"color", "color.tar"}


def test_nothing_hides_between_the_files(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[-1] = 1
    archive.write_bytes(content)
    with pytest.raises(BundleError, match="got content that no file owns; expected zeros there"):
        unpack(archive, tmp_path / "again")


def test_a_folder_that_exists_is_kept(archive: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a folder that exists; expected a new name; pass --overwrite"):
        unpack(archive, bundle)
    (tmp_path / "old").mkdir()
    assert unpack(archive, tmp_path / "old", overwrite=True).path == tmp_path / "old"


@pytest.mark.parametrize("name", ["nothing.tar", "color", "color/encode.onnx"])
def test_what_is_no_archive_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    assert bundle.is_dir()
    with pytest.raises(BundleError, match="expected a packed bundle"):
        unpack(tmp_path / name, tmp_path / "again")


def test_a_packed_bundle_is_not_loaded_but_its_remedy_is_told(archive: Path) -> None:
    message = r"color\.tar: got a file; expected a bundle's folder; if it is a packed bundle, `vqrae unpack FILE -o"
    with pytest.raises(BundleError, match=message):
        load(archive)


def test_the_manifest_of_a_folder_and_of_its_archive_are_the_same_bytes(bundle: Path, archive: Path) -> None:
    assert manifest_bytes(bundle) == manifest_bytes(archive) == (bundle / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encode.onnx/plugin", "expected no file in encode.onnx, which is a file itself"),
        ("Encode.ONNX/plugin", "expected no file in encode.onnx"),
        ("manifest.json/plugin", "expected no file in manifest.json"),
        ("Manifest.json", "expected manifest.json not among its own files"),
        ("../plugin", "expected a relative path inside the bundle"),
    ],
)
def test_a_manifest_that_clashes_with_itself_is_refused(
    bundle: Path, edit_manifest: Edit, path: str, message: str
) -> None:
    edit_manifest(lambda values: values["files"].append({"path": path, "size": 0, "sha256": "0" * 64}))
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)

"""A tar is read as unpacking would give it, and damage is seen (family B)."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_shards import encoded

from vqrae.images.tar import MOST_EXTENSION_BYTES, Contents, contents_of, read_members


def packed(*members: tuple[tarfile.TarInfo | str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - tarfile's word
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def five(**options: int) -> bytes:
    return packed(*((f"{gray}.png", encoded(gray)) for gray in range(5)), **options)


def headers(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


def read(tmp_path: Path, content: bytes, name: str = "a.tar") -> tuple[Contents, dict[str, bytes | str]]:
    (tmp_path / name).write_bytes(content)
    contents = contents_of(tmp_path / name, name)
    read = read_members(tmp_path / name, contents.members)
    return contents, {member.name: got for member, got in zip(contents.members, read, strict=True)}


def images(contents: Contents) -> list[str]:
    return [member.name for member in contents.members]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_whole_archive(tmp_path: Path, compress: Callable[[bytes], bytes], format: int) -> None:  # noqa: A002
    contents, got = read(tmp_path, compress(five(format=format)))
    assert got == {f"{gray}.png": encoded(gray) for gray in range(5)}
    assert (contents.left_out, contents.damaged) == ([], [])


class TestDamageIsSeen:
    @pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
    @pytest.mark.parametrize("damage", ["a flipped bit", "zeros", "noise"])
    def test_a_damaged_header_loses_one_member_and_is_told(
        self, tmp_path: Path, damage: str, compress: Callable[[bytes], bytes]
    ) -> None:
        content = bytearray(five())
        at = headers(content)[1]
        if damage == "a flipped bit":
            content[at + 5] ^= 1
        else:
            content[at : at + 512] = bytes(512) if damage == "zeros" else b"\xa5" * 512
        contents, got = read(tmp_path, compress(bytes(content)))
        assert got == {f"{gray}.png": encoded(gray) for gray in (0, 2, 3, 4)}
        (told,) = contents.damaged
        assert told.key == "a.tar"
        assert "bytes 1,024 to 2,048 is missing (" in told.reason or "bytes 1,536 to" in told.reason

    def test_a_damaged_header_behind_a_long_name(self, tmp_path: Path) -> None:
        names = [f"{'long' * 40}/{gray}.png" for gray in range(4)]
        content = bytearray(packed(*((name, encoded(gray)) for gray, name in enumerate(names))))
        content[headers(content)[1] + 1024 + 5] ^= 1  # behind the extension's header and its content
        contents, got = read(tmp_path, bytes(content))
        assert list(got) == [names[0], *names[2:]]
        assert len(contents.damaged) == 1

    def test_a_file_that_is_cut_within_a_header(self, tmp_path: Path) -> None:
        content = five()
        contents, got = read(tmp_path, content[: headers(content)[1] + 100])
        assert list(got) == ["0.png"]
        assert "what lay from byte 1,024 on is missing (truncated header)" in contents.damaged[0].reason

    def test_a_file_that_is_cut_between_members(self, tmp_path: Path) -> None:
        content = five()
        contents, got = read(tmp_path, content[: headers(content)[1]])
        assert list(got) == ["0.png"]
        assert "the mark of its end is missing" in contents.damaged[0].reason

    def test_a_file_that_is_cut_within_an_image(self, tmp_path: Path) -> None:
        content = five()
        contents, got = read(tmp_path, content[: headers(content)[2] + 520])
        assert got["2.png"] == "the archive is damaged there (unexpected end of data)"
        assert "unexpected end of data: what follows is missing" in contents.damaged[0].reason

    def test_half_of_a_compressed_archive(self, tmp_path: Path) -> None:
        whole = gzip.compress(packed(*((f"{n}.png", bytes([n]) * 100_000) for n in range(5))), compresslevel=0)
        contents, got = read(tmp_path, whole[: len(whole) // 2], "a.tar.gz")
        assert [type(it) for it in got.values()] == [bytes, bytes, str]
        assert "what follows is missing" in contents.damaged[0].reason

    @pytest.mark.parametrize(
        "content", [b"", b"text", b"no archive" * 1000, b"\x1f\x8b", gzip.compress(b"none", mtime=0)]
    )
    def test_a_file_that_is_none(self, tmp_path: Path, content: bytes) -> None:
        contents, got = read(tmp_path, content)
        assert got == {}
        assert len(contents.damaged) == 1

    def test_archives_that_were_joined_lose_nothing(self, tmp_path: Path) -> None:
        contents, got = read(tmp_path, packed(("a.png", encoded(1))) + packed(("b.png", encoded(2))))
        assert got == {"a.png": encoded(1), "b.png": encoded(2)}
        assert contents.damaged == []


class TestWhatUnpackingWouldGive:
    def test_of_one_name_the_last_stands_and_the_others_are_told(self, tmp_path: Path) -> None:
        content = packed(("a.png", encoded(1)), ("b.png", encoded(2)), ("./a.png", encoded(3)))
        contents, got = read(tmp_path, content)
        assert got == {"b.png": encoded(2), "./a.png": encoded(3)}
        assert [(it.key, it.why) for it in contents.left_out] == [("a.tar/a.png", "repeated")]

    def test_links_within_the_archive_are_followed(self, tmp_path: Path) -> None:
        content = packed(
            (special("d/early.png", tarfile.SYMTYPE, "../a.png"), b""),
            ("a.png", encoded(1)),
            (special("hard.png", tarfile.LNKTYPE, "a.png"), b""),
            (special("outside.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (special("up.png", tarfile.SYMTYPE, "../../a.png"), b""),
            (special("self.png", tarfile.LNKTYPE, "self.png"), b""),
        )
        contents, got = read(tmp_path, content)
        assert got == dict.fromkeys(["d/early.png", "a.png", "hard.png"], encoded(1))
        assert [(it.key, it.why) for it in contents.left_out] == [
            ("a.tar/outside.png", "link"),
            ("a.tar/up.png", "link"),
            ("a.tar/self.png", "link"),
        ]

    def test_what_is_no_image_is_named_and_folders_are_no_files(self, tmp_path: Path) -> None:
        content = packed(
            (special("d", tarfile.DIRTYPE), b""),
            ("d/a.png", encoded(1)),
            ("d/a.txt", b"a caption"),
            ("d/._a.png", b"\0"),
            ("b.avif", b"\0"),
            ("inner.tar", b"\0"),
            (special("device.png", tarfile.CHRTYPE), b""),
        )
        contents, got = read(tmp_path, content)
        assert list(got) == ["d/a.png"]
        assert [(it.key, it.why) for it in contents.left_out] == [
            ("a.tar/d/a.txt", "other"),
            ("a.tar/d/._a.png", "hidden"),
            ("a.tar/b.avif", "unread format"),
            ("a.tar/inner.tar", "other"),
            ("a.tar/device.png", "special"),
        ]

    def test_names_of_any_bytes(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
            info = tarfile.TarInfo("café.png")
            info.size = len(encoded(1))
            archive.addfile(info, io.BytesIO(encoded(1)))
        contents, got = read(tmp_path, file.getvalue())
        assert images(contents) == ["caf\udce9.png"]
        assert list(got.values()) == [encoded(1)]


class TestHostileArchives:
    """Reading them has an end; a test's limit would tell otherwise."""

    def header(self, kind: bytes, size: bytes = b"00000000000\0") -> bytes:
        made = bytearray(special("x.png", kind).tobuf())
        made[124:136] = size
        made[148:156] = b" " * 8
        made[148:156] = f"{sum(made):06o}\0 ".encode()
        return bytes(made)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(lambda self: self.header(b"0", b"\xff" * 12) * 3, id="a negative size"),
            pytest.param(lambda self: self.header(b"0", b"\x80" + b"\xff" * 11), id="an endless size"),
            pytest.param(lambda self: self.header(b"x", b"77777777777\0") + bytes(512), id="an endless extension"),
            pytest.param(lambda self: self.header(b"L") * 5000, id="extensions of extensions"),
            pytest.param(lambda self: self.header(b"S") + b"\xff" * 512, id="sparse"),
        ],
    )
    def test_a_header_that_lies(self, tmp_path: Path, content: Callable[[TestHostileArchives], bytes]) -> None:
        contents, _ = read(tmp_path, content(self) + bytes(1024))
        assert contents.damaged or contents.left_out

    def test_an_extension_of_digits(self, tmp_path: Path) -> None:
        digits = b"1" * MOST_EXTENSION_BYTES
        content = self.header(b"x", f"{len(digits):011o}\0".encode()) + digits + five()
        _, got = read(tmp_path, content)
        assert len(got) >= 4

    def test_a_negative_size_in_an_extension(self, tmp_path: Path) -> None:
        record = b"15 size=-51200\n"
        extension = self.header(b"x", f"{len(record):011o}\0".encode()) + record.ljust(512, b"\0")
        contents, got = read(tmp_path, extension + self.header(b"0") + five())
        assert list(got) == ["x.png", *(f"{gray}.png" for gray in range(5))]
        assert "a size of -51200 bytes" in contents.damaged[0].reason


def test_a_checksum_is_one() -> None:
    """So that the headers above are whole where they should be."""
    header = TestHostileArchives().header(b"0")
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").name == "x.png"
    assert struct.unpack("8s", header[148:156])[0].endswith(b"\0 ")

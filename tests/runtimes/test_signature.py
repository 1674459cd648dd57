from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from vqrae.runtimes import load
from vqrae.runtimes.archive import manifest_bytes, pack, unpack
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import RuntimeUnavailable, SignatureError, UsageError
from vqrae.runtimes.signature import make_keys, signature_path, write_signature

PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture
def signed(bundle: Path, keys: tuple[Path, Path]) -> Path:
    write_signature(bundle, manifest_bytes(bundle), keys[0])
    return bundle


def test_a_signed_bundle_loads(signed: Path, keys: tuple[Path, Path]) -> None:
    with load(signed, public_key=keys[1]) as tokenizer:
        assert tokenizer.grid == (2, 3)
    assert signature_path(signed) == signed.with_name("color.sig")
    assert signature_path(signed).stat().st_size == 64


def test_without_a_key_no_signature_is_needed(bundle: Path) -> None:
    load(bundle).close()


def test_only_the_owner_may_read_the_private_key(keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----")


def test_keys_are_never_overwritten(keys: tuple[Path, Path]) -> None:
    before = keys[0].read_bytes()
    with pytest.raises(UsageError, match=r"ours\.key: got a file that exists; expected a new name"):
        make_keys(keys[0].with_suffix(""))
    assert keys[0].read_bytes() == before


def test_a_missing_signature(bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(
        SignatureError, match=r"color\.sig: got no such file; expected the bundle's signature"
    ) as caught:
        Bundle.open(bundle, public_key=keys[1])
    assert caught.value.exit_code == 5


def test_the_signature_of_another_key(signed: Path, tmp_path: Path) -> None:
    _, other = make_keys(tmp_path / "other")
    message = r"color\.sig: got another signature; expected one of this manifest by .*other\.pub; do not use the bundle"
    with pytest.raises(SignatureError, match=message):
        Bundle.open(signed, public_key=other)


def test_a_changed_manifest_is_refused_before_it_is_parsed(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "manifest.json").write_text("{")
    with pytest.raises(SignatureError, match="got another signature"):
        Bundle.open(signed, public_key=keys[1])


def test_a_bundle_of_an_attackers_own_hashes_is_refused(
    signed: Path, keys: tuple[Path, Path], rewrite_manifest: Callable[..., None]
) -> None:
    """What the hashes alone cannot tell: every file and the manifest fit, but someone else made them."""
    (signed / "decode.onnx").write_bytes((signed / "encode.onnx").read_bytes())
    rewrite_manifest(signed)
    Bundle.open(signed)
    with pytest.raises(SignatureError, match="got another signature"):
        Bundle.open(signed, public_key=keys[1])


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\0" * 63, b"\0" * 65, b"-----BEGIN"])
def test_a_broken_signature(signed: Path, keys: tuple[Path, Path], content: bytes) -> None:
    signature_path(signed).write_bytes(content)
    with pytest.raises(SignatureError, match=r"color\.sig: got"):
        Bundle.open(signed, public_key=keys[1])


def test_the_signature_of_a_folder_is_that_of_its_archive(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    archive = pack(signed, tmp_path / "packed.tar")
    with pytest.raises(SignatureError, match=r"packed\.tar\.sig: got no such file"):
        unpack(archive, tmp_path / "again", public_key=keys[1])
    shutil.copyfile(signature_path(signed), signature_path(archive))
    unpack(archive, tmp_path / "again", public_key=keys[1])
    other = write_signature(archive, manifest_bytes(archive), keys[0])
    assert other.read_bytes() == signature_path(signed).read_bytes()


def test_an_unsigned_archive_leaves_nothing(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    archive = pack(bundle, tmp_path / "packed.tar")
    signature_path(archive).write_bytes(b"\0" * 64)
    with pytest.raises(SignatureError):
        unpack(archive, tmp_path / "again", public_key=keys[1])
    assert not (tmp_path / "again").exists()


def test_a_linked_bundle_has_the_signature_of_what_it_names(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "latest").symlink_to(signed)
    assert Bundle.open(tmp_path / "latest", public_key=keys[1]).path == tmp_path / "latest"


def pem_of_another_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an ed25519 public key in PEM, without a password; make a pair with `vqrae keys`"),
        (b"not a key", "expected an ed25519 public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "expected an ed25519 public key in PEM"),
        (b"x" * 70_000, "got more than 65536 bytes; expected a public key"),
        (pem_of_another_curve(), "got ECPublicKey; expected an ed25519 public key"),
    ],
)
def test_what_is_no_public_key(signed: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "no.pub"
    path.write_bytes(content)
    with pytest.raises(SignatureError, match=message):
        Bundle.open(signed, public_key=path)


def test_the_private_key_does_not_verify(signed: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(SignatureError, match="expected an ed25519 public key"):
        Bundle.open(signed, public_key=keys[0])


def test_a_private_key_with_a_password_is_refused(bundle: Path, tmp_path: Path) -> None:
    key, locked = ed25519.Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"secret")
    path = tmp_path / "locked.key"
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(SignatureError, match="expected an ed25519 private key in PEM, without a password"):
        write_signature(bundle, manifest_bytes(bundle), path)
    with pytest.raises(SignatureError, match=r"nothing\.key: got no such file; expected a private key"):
        write_signature(bundle, manifest_bytes(bundle), tmp_path / "nothing.key")


def test_a_signed_bundle_is_not_rebuilt_in_the_same_breath(signed: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="rebuild: got a public key too; expected one of them"):
        load(signed, public_key=keys[1], rebuild=True)


def test_without_cryptography_the_extra_is_named(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    monkeypatch.delitem(sys.modules, "vqrae.runtimes.ed25519", raising=False)
    with pytest.raises(RuntimeUnavailable, match=r"install it with `pip install 'vqrae\[sign\]'`"):
        Bundle.open(signed, public_key=keys[1])
    Bundle.open(signed)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="nothing else checks the signature: openssl is not here")
def test_another_tool_verifies_the_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    def verified(manifest: Path) -> Any:
        files = ("-inkey", keys[1], "-in", manifest, "-sigfile", signature_path(signed))
        command = ("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", *files)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert verified(signed / "manifest.json").returncode == 0
    assert verified(signed / "encode.onnx").returncode != 0

"""Many inputs that somebody else may have made, damaged at random: each is read, or refused by an error of ours.

    python tests/support/fuzz_inputs.py BUNDLE --cases 10000 [--seed 0]

In one warm process; a case that takes more than 2 s or 300 MB, or ends in any other way, is told and ends the run with
exit code 1. BUNDLE is any small one; the other samples are made here.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from image_shards import encoded, write_parquet, write_tar
from PIL import Image
from starlette.testclient import TestClient
from tiny_models import tiny_model

import vqrae
from vqrae.calibration.plan import PrecisionPlan
from vqrae.checkpoint import from_pretrained, save_pretrained
from vqrae.images.numbered import source_images
from vqrae.images.parts import source_of
from vqrae.images.reading import encoded_images
from vqrae.model.encoder import Encoder
from vqrae.runtimes.archive import pack, unpack
from vqrae.runtimes.bundle import sha256_file
from vqrae.runtimes.errors import VqraeError
from vqrae.runtimes.manifest import parse_manifest
from vqrae.runtimes.preprocess import read_image
from vqrae.serving.app import Service
from vqrae.serving.limits import Limits
from vqrae.serving.worker import Worker
from vqrae.tokenizing.job import TokenJob, read_json
from vqrae.tokenizing.token_files import Tokens, read_tokens, write_tokens
from vqrae.training.description import RunDescription

FORMATS = ("png", "jpeg", "webp", "gif", "tiff", "bmp", "ppm")
MOST_SECONDS, MOST_BYTES = 2.0, 300e6
STATUSES = {200, 400, 404, 405, 408, 413, 415, 503, 504}
HOSTILE: list[Any] = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        0.5,
        1e308,
        -1e308,
        10**30,
        2**31,
        2**63,
        "",
        "x" * 10_000,
        "../../x",
        "/etc/passwd",
    ),
    *("\x1b[31m", "NaN", [], {}, [[]] * 50, {"a": {"b": {}}}, [1] * 1000, "kernels-community/x", {"auto_map": {}}),
]
TOKENS = [b"NaN", b"1e999", b"-", b'"', b"{" * 2000, b"[" * 2000, b"\xff\xfe", b"\0", b"9" * 5000, b"null", b"\\ud800"]


class Kind(NamedTuple):
    """A kind of input: samples that are whole, and what reads one."""

    samples: list[bytes]
    read: Callable[[bytes], None]
    weight: int = 1


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A sample, damaged."""
    if rng.random() < 0.5 and content[:1] in (b"{", b"["):
        return with_other_values(content, rng)
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 8])):
        at = rng.randrange(len(made) + 1)
        length = min(rng.choice([1, 1, 4, 16, 512, 4096]), len(made) - at)
        match rng.randrange(7):
            case 0:
                made[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                if at < len(made):
                    made[at] ^= 1 << rng.randrange(8)
            case 2:
                del made[at:]
            case 3:
                made[at : at + length] = bytes(length)
            case 4:
                made[at:at] = rng.randbytes(length)
            case 5:
                made[at:at] = made[at : at + length] * rng.choice([1, 2, 100])
            case 6:
                made[at:at] = rng.choice(TOKENS)
        if len(made) > 2**22:
            del made[2**22 :]
    return bytes(made)


def with_other_values(content: bytes, rng: random.Random) -> bytes:
    """A JSON sample with another value, a field less, or one more."""
    whole = json.loads(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        inside, key = whole, None
        while isinstance(inside, dict | list) and inside and (key is None or rng.random() < 0.8):
            parent = inside
            key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
            inside = inside[key]
        if key is None:
            break
        match rng.randrange(4):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(["x", "_attn_implementation", "auto_map", "é", ""])] = copy.deepcopy(
                    rng.choice(HOSTILE)
                )
            case _:
                parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    return json.dumps(whole).encode()


def kinds(bundle: Path, scratch: Path, client: TestClient) -> dict[str, Kind]:
    """All of them; what they read lies below `scratch`."""
    checkpoint, encoder = scratch / "checkpoint", scratch / "encoder"
    model = tiny_model()
    save_pretrained(model, checkpoint)
    model.encoder.network.save_pretrained(encoder)
    processor = (
        b'{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 0.004}'
    )
    (encoder / "preprocessor_config.json").write_bytes(processor)
    packed, plan = scratch / "packed.tar", scratch / "plan.json"
    pack(bundle, packed)
    PrecisionPlan(layers={f"encoder.blocks.{n}.up": "int8" for n in range(4)}).write(plan)
    tar = write_tar(scratch / "a.tar", {f"{n}.png": encoded(n) for n in range(4)} | {"a.txt": b"text"})
    parquet = write_parquet(scratch / "a.parquet", [encoded(n) for n in range(4)])
    tokens = Tokens(["a", "b"], ["0" * 64] * 2, np.zeros((2, 4, 4), np.uint16))
    write_tokens(scratch / "t.parquet", tokens, layout="parquet", bundle_sha256="0" * 64)
    write_tokens(scratch / "t.tar", tokens, layout="webdataset", bundle_sha256="0" * 64)
    names = {"bundle": "a", "bundle_sha256": "0", "weights_sha256": "0", "rule": "r", "parts_sha256": "0"}
    sizes = {"image_size": [4, 4], "grid": [2, 2], "codebook_size": 9, "batch": 1, "part_images": 1, "parts": 1}
    job = TokenJob.model_validate({**names, **sizes, "layout": "parquet"})
    began = RunDescription.of(model.config, 0, None, {"a.png": 7})
    picture = (bundle / "golden" / "source-00.png").read_bytes()
    answer = client.post("/encode", content=picture).content
    ask = {"inputs": [{"name": "indices", "datatype": "INT32", "shape": [1, 4, 4], "data": [0] * 16}], "id": "1"}

    def file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
        def reading(content: bytes) -> None:
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(content)
            read(scratch / name)

        return reading

    def within(folder: Path, name: str, read: Callable[[], object]) -> Callable[[bytes], None]:
        whole = (folder / name).read_bytes()

        def reading(content: bytes) -> None:
            (folder / name).write_bytes(content)
            try:
                read()
            finally:
                (folder / name).write_bytes(whole)

        return reading

    def images(path: Path) -> None:
        source = source_of(path, size=2)
        for part in source.parts:
            for image in encoded_images(source.root, part):
                if image.content is not None:
                    decode(image.content)
        found = source_images(path)
        for number in range(len(found)):
            with ours():
                found.read(number)

    def unpacked(path: Path) -> None:
        unpack(path, scratch / "unpacked")
        shutil.rmtree(scratch / "unpacked")

    def ask_of(path: str) -> Callable[[bytes], None]:
        def asking(content: bytes) -> None:
            response = client.post(path, content=content, headers={"content-type": "application/json"})
            assert response.status_code in STATUSES, f"status {response.status_code}"

        return asking

    config = (checkpoint / "config.json").read_bytes()
    return {
        "config": Kind([config], within(checkpoint, "config.json", lambda: from_pretrained(checkpoint)), 3),
        "weights": Kind(
            [(checkpoint / "model.safetensors").read_bytes()],
            within(checkpoint, "model.safetensors", lambda: from_pretrained(checkpoint)),
        ),
        "encoder": Kind(
            [(encoder / "config.json").read_bytes()],
            within(encoder, "config.json", lambda: Encoder.from_pretrained(str(encoder))),
        ),
        "processor": Kind(
            [processor], within(encoder, "preprocessor_config.json", lambda: Encoder.from_pretrained(str(encoder)))
        ),
        "manifest": Kind([(bundle / "manifest.json").read_bytes()], lambda it: void(parse_manifest("m", it)), 4),
        "archive": Kind([packed.read_bytes()], file("x/a.tar", unpacked), 2),
        "tar": Kind([tar.read_bytes()], file("y/a.tar", images), 3),
        "parquet": Kind([parquet.read_bytes()], file("z/a.parquet", images), 2),
        "image": Kind(list(pictures()), decode, 6),
        "plan": Kind([plan.read_bytes()], file("p.json", PrecisionPlan.read)),
        "run": Kind(
            [json.dumps(began.model_dump(mode="json")).encode()], file("run.json", lambda it: began.check(it.parent))
        ),
        "job": Kind([json.dumps(job.model_dump()).encode()], file("job.json", lambda it: read_json(it, TokenJob))),
        "tokens": Kind([(scratch / "t.parquet").read_bytes()], file("u/t.parquet", lambda it: read_tokens(it, (4, 4)))),
        "token tar": Kind([(scratch / "t.tar").read_bytes()], file("u/t.tar", lambda it: read_tokens(it, (4, 4)))),
        "encode": Kind([picture], ask_of("/encode"), 2),
        "decode": Kind([answer], ask_of("/decode"), 2),
        "infer": Kind([json.dumps(ask).encode()], ask_of("/v2/models/decode/infer"), 4),
    }


def pictures() -> Iterator[bytes]:
    """One of each format."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    modes = {"png": ("RGB", "P", "I;16"), "jpeg": ("RGB", "CMYK"), "tiff": ("RGB", "CMYK")}
    for name, mode in [(form, mode) for form in FORMATS for mode in modes.get(form, ("RGB",))]:
        file = io.BytesIO()
        Image.fromarray(noise).convert("L" if mode == "I;16" else mode).convert(mode).save(file, name)
        yield file.getvalue()


def decode(content: bytes) -> None:
    with ours():
        read_image("image", io.BytesIO(content))


def void(_: object) -> None:
    """Only reading counts."""


@contextmanager
def ours() -> Iterator[None]:
    """An error of ours is a right answer."""
    try:
        yield
    except VqraeError as error:
        if not str(error).isprintable():
            raise ValueError(f"an error that controls a terminal, or has several lines: {error!a}") from error


def fuzz(kinds: dict[str, Kind], cases: int, seed: int) -> tuple[Counter[str], list[str], dict[str, float]]:
    """Cases by kind, what was wrong, and the longest and largest of all."""
    rng, process = random.Random(seed), psutil.Process()  # noqa: S311 - no secret
    counts, wrong, most = Counter[str](), list[str](), {"seconds": 0.0, "bytes": 0.0}
    for kind in kinds.values():
        for sample in kind.samples:
            kind.read(sample)  # warm, and whole samples are read
    names, weights = list(kinds), [kind.weight for kind in kinds.values()]
    for number in range(cases):
        name = rng.choices(names, weights)[0]
        content = mutated(rng.choice(kinds[name].samples), rng)
        before, peak = process.memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        problem = None
        try:
            with ours():
                kinds[name].read(content)
        except Exception as error:
            problem = f"{type(error).__name__} {error}"
        seconds = time.monotonic() - started
        reached = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = (reached * 1024 - before) if reached > peak else 0
        most = {"seconds": max(most["seconds"], seconds), "bytes": max(most["bytes"], grown)}
        problem = problem or (f"{seconds:.1f} s" if seconds > MOST_SECONDS else None)
        problem = problem or (f"{grown / 1e6:.0f} MB" if grown > MOST_BYTES else None)
        counts[name] += 1
        if problem:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{name.replace(' ', '-')}-{seed}-{number}"
            kept.write_bytes(content)
            wrong.append(f"{name} {number}: {problem[:300]} ({kept})")
            print(wrong[-1], flush=True)
    return counts, wrong, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as scratch, vqrae.load(options.bundle, threads=1) as tokenizer:
        limits = Limits(max_batch=8, max_body=1_000_000)
        with Worker(tokenizer, limits) as worker:
            digest = sha256_file(options.bundle / "manifest.json")
            service = Service(worker, tokenizer.manifest, digest, limits)
            with TestClient(service.app(), raise_server_exceptions=False) as client:
                counts, wrong, most = fuzz(kinds(options.bundle, Path(scratch), client), options.cases, options.seed)
    told = {"cases": counts.total(), "by_kind": dict(counts), "wrong": wrong, "longest_s": round(most["seconds"], 2)}
    print(json.dumps({**told, "largest_mb": round(most["bytes"] / 1e6)}, indent=2))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

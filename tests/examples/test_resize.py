"""The rule in JavaScript: the same bytes as Python's, for images of any size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from vqrae.runtimes.preprocess import RULE, prepare

RESIZE = Path(__file__).parents[2] / "examples" / "browser" / "resize.js"
SCRIPT = """
import { readFileSync, writeSync } from "node:fs";
const { prepare, RULE } = await import(process.argv[1]);
const input = readFileSync(0);
for (let at = 0; at < input.length; ) {
  const [width, height, toWidth, toHeight] = [0, 4, 8, 12].map((field) => input.readInt32LE(at + field));
  const pixels = input.subarray(at + 16, at + 16 + width * height * 3);
  process.stdout.write(prepare({ data: new Uint8Array(pixels), width, height }, toHeight, toWidth));
  at += 16 + pixels.length;
}
process.stdout.write(RULE);
"""

SIZES = [
    ((64, 64), (64, 64)),  # unchanged
    ((64, 48), (64, 64)),
    ((1, 1), (8, 8)),
    ((1, 300), (16, 16)),
    ((300, 1), (16, 24)),
    ((2, 3), (64, 64)),
    ((37, 101), (64, 64)),
    ((101, 37), (48, 64)),
    ((333, 517), (64, 64)),
    ((517, 333), (256, 256)),
    ((64, 65), (64, 64)),
    ((65, 64), (64, 64)),
    ((128, 128), (64, 64)),
    ((127, 129), (64, 63)),
    ((40, 30), (300, 200)),
    ((16, 1000), (224, 224)),
]
"""Source and target, (height, width): larger, smaller, both at once, one side exact, boxes at fractions of a pixel."""


def cases() -> list[tuple[np.ndarray, tuple[int, int]]]:
    random = np.random.default_rng(0)
    noise = [(random.integers(0, 256, (*source, 3), dtype=np.uint8), target) for source, target in SIZES]
    edges = [((values > 127).astype(np.uint8) * 255, target) for values, target in noise]  # overshoot has to be cut
    photographs = [(image, (64, 64)) for image in (data.coffee(), data.chelsea(), data.astronaut()[:300])]
    return noise + edges + photographs


def resized(node: str, module: Path) -> tuple[bytes, bytes]:
    """What JavaScript made of every case, with the rule's name after it, and what Python made."""
    made, expected = bytearray(), bytearray()
    for image, (height, width) in cases():
        made += np.array([image.shape[1], image.shape[0], width, height], "<i4").tobytes() + image.tobytes()
        expected += prepare(image, height, width).tobytes()
    command = [node, "--input-type=module", "-e", SCRIPT, module.as_uri()]
    found = subprocess.run(command, input=bytes(made), capture_output=True, check=True, timeout=60).stdout
    return found, bytes(expected) + RULE.encode()


def test_javascript_gives_the_bytes_that_python_gives(node: str) -> None:
    found, expected = resized(node, RESIZE)
    assert len(found) == len(expected)
    assert found == expected


@pytest.mark.parametrize(
    ("exact", "other"),
    [
        ("Math.trunc(center", "Math.round(center"),
        ("let sum = ONE / 2", "let sum = 0"),
        (".map(Math.fround)", ""),
        ("Math.fround(to - from)", "(to - from)"),
        ("share = sum === 0 ? weight : weight / sum", "share = weight"),
    ],
)
def test_each_rounding_counts(node: str, tmp_path: Path, exact: str, other: str) -> None:
    """The golden vectors are sharp enough to tell each of them."""
    source = RESIZE.read_text(encoding="utf-8")
    assert exact in source
    (tmp_path / "resize.mjs").write_text(source.replace(exact, other), encoding="utf-8")
    found, expected = resized(node, tmp_path / "resize.mjs")
    assert found != expected

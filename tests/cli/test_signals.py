"""A signal ends a command within two seconds, also within one run of a runtime that takes minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import tiny_model

from vqrae.checkpoint import save_pretrained

SIDE = 512
IMAGES = 128


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles whose runs take long: 4,096 tokens an image."""
    folder = tmp_path_factory.mktemp("large")
    save_pretrained(tiny_model(), folder / "checkpoint")
    formats = ["--format", "onnx", "--format", "openvino"]
    command = [
        "export",
        folder / "checkpoint",
        "-o",
        folder / "bundles",
        "--imgsz",
        str(SIDE),
        "--images",
        "1",
        *formats,
    ]
    subprocess.run([sys.executable, "-m", "vqrae", *command], check=True, capture_output=True)
    return folder / "bundles"


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_signal_ends_a_long_encode(runtime: str, name: signal.Signals, large: Path, tmp_path: Path) -> None:
    (bundle,) = large.glob(f"*-{runtime}-fp32")
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")
    for number in range(IMAGES):
        os.link(tmp_path / "a.png", tmp_path / f"{number}.png")
    command = [sys.executable, "-m", "vqrae", "encode", bundle, *sorted(tmp_path.glob("[0-9]*.png"))]
    with subprocess.Popen(
        [*command, "-o", tmp_path / "out.npy", "--threads", "1"], stderr=subprocess.PIPE, text=True
    ) as running:
        time.sleep(8)  # it has loaded, and computes
        assert running.poll() is None, running.communicate()
        sent = time.monotonic()
        running.send_signal(name)
        _, said = running.communicate(timeout=60)
        assert time.monotonic() - sent < 10, "minutes without it; two seconds on an idle machine"
    assert running.returncode == (143 if name == signal.SIGTERM else 130)
    assert "nothing half-written was left" in said or "swept by the next command" in said
    assert not (tmp_path / "out.npy").exists()

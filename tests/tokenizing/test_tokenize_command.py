"""The real command on Ray Data, killed in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from image_shards import encoded, write_tar
from tokenize_here import tokenize_here

VQRAE = Path(sys.executable).with_name("vqrae")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    for shard in range(3):
        numbers = range(shard * 60, shard * 60 + 60)
        images = {f"{n:03d}.png": encoded(n) if n % 30 else b"no image" for n in numbers}
        write_tar(tmp_path / "shards" / f"{shard}.tar", images)
    tokenize_here(exported, tmp_path / "shards", tmp_path / "here", part_images=5)
    out = tmp_path / "out"
    command = [VQRAE, "tokenize", exported, tmp_path / "shards", "-o", out, "--part-images", "5", "--threads", "1"]

    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(out.glob("part-*"))) < 5 and killed.poll() is None:
        time.sleep(0.005)
    family = psutil.Process(killed.pid).children(recursive=True)
    # Ray's agents, and its monitors, which are named for the interpreter, notice up to a minute later.
    working = [it for it in family if "Agent" not in it.name() and not it.name().startswith("python")]
    assert any(it.name().startswith("ray::MapWorker") for it in working)
    killed.kill()
    killed.wait()
    assert not (out / "complete.json").exists()
    _, alive = psutil.wait_procs(working, timeout=20)
    assert not alive

    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    first, last = finished.stdout.splitlines()
    assert first == f"{out}: 174 images (174 in tars)"
    assert last.startswith("damaged 6: 0.tar/000.png, 0.tar/030.png, 1.tar/060.png and 3 more (the first: ")
    assert last.endswith(f": {out / 'dead-letters.jsonl'}")
    undisturbed, resumed = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (tmp_path / "here", out)
    )
    assert resumed == undisturbed

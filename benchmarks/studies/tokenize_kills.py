"""`vqrae tokenize` killed at random and resumed, against an undisturbed run; one worker against two; memory.

    python -m vqrae.benchmarks.studies.tokenize_kills BUNDLE --images 5000 --kills 10

Ends with exit code 3 where the results differ.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from vqrae.benchmarks.studies.study import StudyParser
from vqrae.runtimes.errors import GateFailure, run_as_program

SHARD = 500
SIDE = 96
BAD_EVERY = 97
WATCH_SECONDS = 3.0
"""Between two looks at the workers' memory; each look takes time from a worker, where there is a core for each."""


def write_data(folder: Path, images: int, seed: int = 0) -> Path:
    """Tars of different images, a bad one now and then."""
    folder.mkdir()
    random_ = np.random.default_rng(seed)
    for first in range(0, images, SHARD):
        with tarfile.open(folder / f"{first // SHARD:04d}.tar", "w") as archive:
            for number in range(first, min(first + SHARD, images)):
                pixels = random_.integers(0, 256, (8, 8, 3), np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "jpeg")
                content = file.getvalue() if number % BAD_EVERY else b"no image"
                info = tarfile.TarInfo(f"{number:06d}.jpg")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder


class Run:
    """One call of the command, with the time from the first part to the last, and the most memory of a worker."""

    def __init__(self, bundle: Path, data: Path, output: Path, *, workers: int, part_images: int) -> None:
        self.output = output
        self.megabytes = 0.0
        command = [sys.executable, "-m", "vqrae", "tokenize", str(bundle), str(data), "-o", str(output)]
        command += ["--workers", str(workers), "--threads", "1", "--part-images", str(part_images)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()

    def kill_after(self, parts: int) -> None:
        """Kill the command once so many more parts are there."""
        goal = self._parts() + parts
        while self.process.poll() is None and self._parts() < goal:
            time.sleep(0.01)
        self.process.kill()
        self._end()

    def finish(self) -> float:
        """Wait for the end; images a second between the first part's appearance and the last's."""
        self._end()
        if self.process.returncode:
            raise GateFailure("vqrae tokenize", got=f"exit code {self.process.returncode}", expected="0")
        times = sorted(path.stat().st_mtime for path in self.output.glob("part-*"))
        return (len(times) - 1) / (times[-1] - times[0])

    def _parts(self) -> int:
        return len(list(self.output.glob("part-*")))

    def _end(self) -> None:
        self.process.wait()
        self._watching.join()

    def _watch(self) -> None:
        while self.process.poll() is None:
            try:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    if "MapWorker" in child.name() or "MapWorker" in " ".join(child.cmdline()):
                        self.megabytes = max(self.megabytes, child.memory_full_info().uss / 1e6)
            except psutil.Error:
                continue  # it has just ended
            finally:
                time.sleep(WATCH_SECONDS)


def content_hash(folder: Path) -> str:
    """Of every file's name and bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def kills(bundle: Path, folder: Path, *, images: int, count: int, part_images: int) -> dict[str, Any]:
    """See the module; `folder` is for everything that is written."""
    data, small = write_data(folder / "data", images), write_data(folder / "small", images // 4)
    size = {"part_images": part_images}
    one = Run(bundle, data, folder / "one", workers=1, **size)
    one_rate = one.finish()
    two = Run(bundle, data, folder / "two", workers=2, **size)
    two_rate = two.finish()
    quarter = Run(bundle, small, folder / "quarter", workers=1, **size)
    quarter.finish()
    chance, parts = random.Random(0), -(-images // part_images)  # noqa: S311
    for _ in range(count):
        killed = Run(bundle, data, folder / "killed", workers=2, **size)
        killed.kill_after(chance.randint(1, max(1, parts // (count + 1))))
    Run(bundle, data, folder / "killed", workers=2, **size).finish()
    hashes = {name: content_hash(folder / name) for name in ("one", "two", "killed")}
    outcome = json.loads((folder / "killed" / "complete.json").read_text())
    return {
        "bundle": bundle.name,
        **outcome,
        "kills": count,
        "identical": len(set(hashes.values())) == 1,
        "images_per_s": {"one worker": one_rate * part_images, "two workers": two_rate * part_images},
        "two_over_one": two_rate / one_rate,
        "worker_mb": {f"{images} images": one.megabytes, f"{images // 4} images": quarter.megabytes},
    }


def main() -> None:
    """The command line."""
    parser = StudyParser("tokenize_kills", __doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--part-images", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vqrae-kills-") as folder:
        size = {"images": options.images, "count": options.kills, "part_images": options.part_images}
        figures = kills(options.bundle.resolve(), Path(folder), **size)
    print(json.dumps(figures, indent=2))
    if not figures["identical"]:
        raise GateFailure("the results", got="different bytes", expected="the same")


if __name__ == "__main__":
    run_as_program(main)

"""The page in headless Chromium: tokens and pictures are Python's, and nothing is fetched from elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import BROWSER, OPTIONS, needs_browser
from PIL import Image

from vqrae.runtimes.archive import pack
from vqrae.runtimes.tokenizer import Tokenizer, load

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("drive_browser.mjs")
SHOTS = ROOT / "build" / "browser"
pytestmark = [pytest.mark.slow, needs_browser]
DEMO = {name: ROOT / "demo" / f"vqrae-tiny-onnx-{name}" for name in ("fp32", "int8")}


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(node_modules: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(
        shutil.copytree(
            ROOT / "examples" / "browser",
            tmp_path_factory.mktemp("web") / "site",
            ignore=shutil.ignore_patterns("node_modules", "bundle"),
        )
    )
    (folder / "node_modules").symlink_to(node_modules("browser"))
    shutil.copy(DRIVER, folder)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(params=["small", *DEMO])
def bundle(request: pytest.FixtureRequest, exported: Path) -> Path:
    """The tests' own small one with random weights, and the shipped tokenizer where `make demo` has exported it."""
    path = exported if request.param == "small" else DEMO[request.param]
    if not path.is_dir():
        pytest.skip(f"{path.name} is not tried in the browser: run `make demo` first")
    return path


def driven(node: str, site: Path, address: str, bundle: Path, photographs: list[Path]) -> dict[str, Any]:
    (site / "bundle").unlink(missing_ok=True)
    (site / "bundle").symlink_to(bundle)
    shots = SHOTS / bundle.name
    shots.mkdir(parents=True, exist_ok=True)
    packed = pack(bundle, site.parent / "packed.tar")
    command = [node, site / DRIVER.name, BROWSER, json.dumps(OPTIONS), f"{address}?device=wasm", packed, shots]
    done = subprocess.run([*command, *photographs], capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def arrays(tokenizer: Tokenizer, found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (*tokenizer.image_size, 3)
    pixels, decoded = (np.array(found[name], np.uint8).reshape(shape) for name in ("pixels", "decoded"))
    return pixels, np.array(found["tokens"], np.int32).reshape(tokenizer.grid), decoded


def check_decoded(tokenizer: Tokenizer, found: dict[str, Any]) -> None:
    """Rounded to bytes by another processor's arithmetic: a level at most."""
    _, tokens, decoded = arrays(tokenizer, found)
    assert np.abs(decoded.astype(int) - tokenizer.decode(tokens)[0]).max() <= 1


def test_the_browser_tokenizes_as_python_does(node: str, site: Path, address: str, bundle: Path) -> None:
    with load(bundle, device="cpu") as tokenizer:
        golden = tokenizer.bundle.golden()
        found = driven(node, site, address, bundle, list(golden.sources))
        expected = tokenizer.encode(golden.images).indices
        noise = tokenizer.manifest.evidence.figures
        assert noise is not None
        others = []
        for one, image, tokens, margins in zip(
            found["photographs"], golden.images, expected, golden.margins, strict=True
        ):
            pixels, seen, _ = arrays(tokenizer, one)
            np.testing.assert_array_equal(pixels, image)
            other = seen != tokens
            if tokenizer.manifest.precision.name == "fp32":
                assert not other.any()
            others.append(other.mean())
            assert (margins[other] <= noise.noise).all(), "only near-ties may fall otherwise"
            check_decoded(tokenizer, one)
        assert np.mean(others) < 0.01, f"INT8's steps round the last bits of other kernels to the other side: {others}"
        assert found["dropped"] == found["photographs"][0]
        check_changes(tokenizer, found)
        check_decoded(tokenizer, found["fromPacked"])
    assert (found["console"], found["elsewhere"], found["overflow"]) == ([], [], False)
    assert found["broken"].startswith("broken.png: got no image that this browser reads")
    assert "expected a packed bundle" in found["noBundle"]
    check_screenshots(SHOTS / bundle.name)


def check_changes(tokenizer: Tokenizer, found: dict[str, Any]) -> None:
    """Two tokens became 7, and the picture followed; then all was undone."""
    before, changed, undone = found["photographs"][-1], found["changed"], found["undone"]
    tokens = np.array(before["tokens"])
    h, w = tokenizer.grid
    middle = h // 2 * w + w // 2
    assert found["picked"] == tokens[middle]
    tokens[[middle, middle + 1]] = 7
    assert changed["tokens"] == tokens.tolist()
    assert changed["decoded"] != before["decoded"]
    check_decoded(tokenizer, changed)
    assert found["invalid"]
    assert (undone["tokens"], undone["decoded"]) == (before["tokens"], before["decoded"])


def check_screenshots(folder: Path) -> None:
    for name, width in (("desktop", 1280), ("phone", 390)):
        with Image.open(folder / f"{name}.png") as shot:
            assert shot.width == width
            assert len(set(np.asarray(shot.convert("L")).ravel().tolist())) > 50, "more than an empty page"


BROKEN: list[tuple[Callable[[Any], None], str]] = [
    (lambda values: values.update(format_version="2.0"), "field format_version: got 2.0; expected 1.x"),
    (lambda values: values["preprocessing"].update(rule="nearest/1"), "field preprocessing.rule: got nearest/1"),
    (lambda values: values["runtime"].update(name="openvino"), "field runtime.name: got openvino"),
    (lambda values: values["files"][0].update(sha256="0" * 64), "got other bytes than the manifest lists"),
]


def test_a_bundle_that_breaks_its_promise_is_refused(node: str, site: Path, address: str, exported: Path) -> None:
    addresses = []
    for number, (change, _) in enumerate(BROKEN):
        bundle = Path(shutil.copytree(exported, site / f"broken-{number}"))
        values = json.loads((bundle / "manifest.json").read_text())
        change(values)
        (bundle / "manifest.json").write_text(json.dumps(values))
        addresses.append(f"{address}?device=wasm&bundle={bundle.name}/")
    command = [node, "--input-type=module", "-e", SHOW_STATUS, str(BROWSER), json.dumps(OPTIONS), *addresses]
    done = subprocess.run(command, cwd=site, capture_output=True, text=True, check=True, timeout=120)
    said = done.stdout.splitlines()
    assert len(said) == len(BROKEN)
    assert all(message in line for (_, message), line in zip(BROKEN, said, strict=True)), said


SHOW_STATUS = """
import { chromium } from "playwright-core";
const [executablePath, options, ...addresses] = process.argv.slice(1);
const browser = await chromium.launch({ executablePath, args: JSON.parse(options) });
for (const address of addresses) {
  const page = await browser.newPage();
  await page.goto(address);
  await page.waitForSelector("#status.error");
  console.log(await page.textContent("#status"));
}
await browser.close();
"""

"""`vqrae.export`, `vqrae.verify`, `vqrae.selftest`: what the verbs of these names call is public Python."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqrae
from vqrae.runtimes.errors import SignatureError, UsageError
from vqrae.runtimes.signature import make_keys

ORDERS = {
    "the function first": "assert callable(vqrae.export)",
    "a module of the package first": "import vqrae.export.formats",
    "the package itself first": "import vqrae.export",
    "by name": "from vqrae import export; assert export is vqrae.export",
}


@pytest.mark.parametrize("first", ORDERS.values(), ids=ORDERS)
def test_export_is_called_whatever_was_imported_before(first: str) -> None:
    text = f"""
import sys, vqrae
assert "vqrae.export" not in sys.modules
{first}
import vqrae.export.formats
from vqrae.export.formats import FORMATS
try:
    vqrae.export("nowhere", "out", formats=["onxx"])
except vqrae.runtimes.UsageError as error:
    assert "onxx" in str(error), error
else:
    raise AssertionError
assert not {{"torch", "transformers", "onnx", "onnxruntime"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", text], check=True)


def test_help_shows_what_can_be_called() -> None:
    shown = pydoc.plain(pydoc.render_doc(vqrae))
    for name in ("load", "export", "verify", "selftest"):
        assert f"    {name} " in shown
    assert list(inspect.signature(vqrae.export).parameters)[:3] == ["checkpoint", "output", "formats"]
    assert "calibration_seed" in pydoc.plain(pydoc.render_doc(vqrae.export))


def test_from_a_checkpoint_to_a_selftest(checkpoint_folder: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(photographs / f"{number}.png")
    (photographs / "notes.txt").write_text("no image")
    told: list[str] = []
    made = vqrae.export(checkpoint_folder, tmp_path / "out", data=photographs, images=2, note=told.append)
    assert made.calibration is None
    assert [row.gate for row in made.rows] == ["pass"]
    assert told == ["verification: left out 1: 1 of other kinds (notes.txt)"]
    bundle = Path(made.rows[0].bundle)
    rows = vqrae.verify([bundle], vqrae.LoadOptions(threads=1), data=photographs, images=2)
    assert (rows[0].executed, rows[0].misses) == (True, ())
    assert vqrae.selftest(bundle).gate == "pass"
    with pytest.raises(SignatureError):
        vqrae.selftest(bundle, vqrae.LoadOptions(public_key=make_keys(tmp_path / "ours")[1]))
    with pytest.raises(UsageError, match="exists"):
        vqrae.export(checkpoint_folder, tmp_path / "out", data=photographs, images=2)

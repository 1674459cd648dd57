"""Every verb through `main`, as the console script calls it: exit code, standard output, standard error."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from skimage import data
from tiny_models import tiny_config, tiny_model

from vqrae.checkpoint import save_pretrained
from vqrae.cli.app import VERBS, main
from vqrae.config import PRESETS
from vqrae.export.onnx_graph import TracedOnnx
from vqrae.export.speed import GraphSpeed
from vqrae.runtimes import registry
from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession
from vqrae.runtimes.bundle import Bundle, write_manifest
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.evidence import Evidence, SourceEvidence
from vqrae.runtimes.manifest import GraphSpec
from vqrae.runtimes.precision import PRECISIONS, Budget
from vqrae.training.config import PretrainConfig, Recipe, Stage1Config, Stage2Config

ROW = {"bundle", "runtime", "runtime_version", "precision", "device", "executed"}
VERIFY = ROW | {
    "gate",
    "excess_distortion",
    "token_agreement",
    "unexplained_mismatches",
    "feature_max_error",
    "decode_psnr_db",
    "source_psnr_drop_db",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output is JSON and nothing else."""
        return json.loads(self.out)


class Command:
    """Runs `vqrae` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        """Run it; whatever the arguments, it ends with an exit code."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, captured.out, captured.err)

    def done(self, *arguments: object) -> Outcome:
        """Run it and expect success."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def refused(self, code: int, *arguments: object) -> str:
        """Run it, expect this exit code, and return the one line of standard error that says why."""
        outcome = self(*arguments)
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err
        lines = [line for line in outcome.err.splitlines() if line.startswith("vqrae: ")]
        assert len(lines) == 1, outcome.err
        assert outcome.err.endswith(lines[0] + "\n"), "nothing follows the line"
        return lines[0]


@pytest.fixture
def vqrae(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for name, image in (("cat", data.cat()), ("coffee", data.coffee())):
        Image.fromarray(image[::3, ::3]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def limit(monkeypatch: pytest.MonkeyPatch, precision: str, **limits: float) -> None:
    """Another limit in the table, in this process."""
    kind = PRECISIONS[precision]
    monkeypatch.setitem(PRECISIONS, precision, replace(kind, limits=replace(kind.limits, **limits)))


@pytest.fixture
def impossible_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, "fp32", min_decode_psnr_db=1000)


@pytest.fixture
def traced_before(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the graphs of the bundle that was exported already: tracing is most of an export's time."""

    def found(self: TracedOnnx, precision: str, batch: int | str, *, split: bool) -> tuple[Path, dict[str, GraphSpec]]:
        assert (precision, batch, split) == ("fp32", "batch", False)
        return exported, Bundle.open(exported).manifest.graphs

    monkeypatch.setattr(TracedOnnx, "graphs", found)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# --- the command itself ---

WATCH_IMPORTS = """
import sys
from vqrae.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
heavy = {"numpy", "onnxruntime", "PIL", "rich.progress", "skimage", "sklearn", "torch", "transformers"}
if sys.argv[1] == "--help":
    heavy |= {"pydantic"}  # typer itself imports it for the options of a verb
print("heavy:", sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["bench", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-c", WATCH_IMPORTS, *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Usage:" in shown
    assert shown.splitlines()[-1] == "heavy: []"


def test_help_lists_every_verb_and_the_exit_codes(vqrae: Command) -> None:
    shown = vqrae.done("--help").out
    assert all(verb in shown for verb in VERBS)
    assert "5 invalid or corrupt input" in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_explains_itself(vqrae: Command, verb: str) -> None:
    shown = vqrae.done(verb, "--help").out
    assert f"vqrae {verb}" in shown or f"{verb} [OPTIONS]" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exprot"], "exprot"),
        (["export"], "CHECKPOINT"),
        (["export", "tiny", "--out", "x"], "--out"),
        (["export", "tiny", "-o", "x", "--images", "0"], "images"),
        (["doctor", "too", "many"], "too"),
        (["train", "tiny", "--data", "x", "-o", "y", "--phase", "stage3"], "stage3"),
    ],
)
def test_wrong_usage(vqrae: Command, arguments: list[str], message: str) -> None:
    assert message in vqrae.refused(2, *arguments)


def test_ctrl_c(vqrae: Command, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupt)
    assert "interrupted; nothing half-written" in vqrae.refused(130, "inspect", exported)


WAITING = """
import sys, time
from tempfile import TemporaryDirectory
from vqrae.cli.app import main
from vqrae.runtimes.bundle import Bundle

def wait(*_, **__):
    with TemporaryDirectory(dir=sys.argv[2]):
        print("ready", flush=True)
        time.sleep(60)

Bundle.open = wait
main(["inspect", sys.argv[1]])
"""


def test_sigterm_deletes_temporary_files(exported: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, exported, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (143, "vqrae: terminated; nothing half-written was left\n")
    assert not list(tmp_path.iterdir())


def test_a_command_gives_the_handler_of_sigterm_back(vqrae: Command) -> None:
    before = signal.getsignal(signal.SIGTERM)
    vqrae.done("formats")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_of_ours_is_not_hidden(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Bundle, "open", broken)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", str(exported)])


# --- doctor, photographs ---


def test_doctor(vqrae: Command) -> None:
    found = vqrae.done("doctor", "--json").json()
    assert set(found) == {"machine", "runtimes", "packages"}
    (runtime,) = [row for row in found["runtimes"] if row["name"] == "onnxruntime"]
    assert runtime["works"]
    assert runtime["version"]
    assert runtime["add_it"] is None
    assert {row["name"] for row in found["packages"]} >= {"torch", "transformers", "onnx"}
    assert runtime["ran"].startswith("ran on cpu")
    assert {row["name"] for row in found["runtimes"]} == set(registry.RUNTIMES)
    assert "onnxruntime" in vqrae.done("doctor").out


def test_doctor_shows_commands_as_they_are_typed(vqrae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqrae.cli.output.console.width", 200)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'vqrae[onnxruntime]'" in vqrae.done("doctor").out


def test_doctor_finds_two_wheels_in_one_folder(vqrae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqrae.runtimes.registry._version", lambda wheel: "1.0" if "onnxruntime" in wheel else None)
    (runtime,) = [row for row in vqrae.done("doctor", "--json").json()["runtimes"] if row["name"] == "onnxruntime"]
    assert not runtime["works"]
    assert "onnxruntime, onnxruntime-gpu and onnxruntime-openvino, which share one folder" in runtime["problem"]
    assert runtime["add_it"].startswith("pip uninstall -y onnxruntime onnxruntime-gpu")
    assert runtime["add_it"].endswith("&& pip install 'vqrae[onnxruntime]'")


def test_doctor_says_why_a_runtime_that_is_installed_does_not_run(
    vqrae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise RuntimeUnavailable("onnxruntime", got="a failed run", remedy="buy another computer")

    monkeypatch.setattr(OnnxRuntimeSession, "probe", broken)
    (runtime,) = [row for row in vqrae.done("doctor", "--json").json()["runtimes"] if row["name"] == "onnxruntime"]
    assert (runtime["works"], runtime["ran"], runtime["add_it"]) == (False, None, "buy another computer")
    assert "a failed run" in runtime["problem"]


def test_doctor_says_how_to_add_a_runtime(vqrae: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (runtime,) = [row for row in vqrae.done("doctor", "--json").json()["runtimes"] if row["name"] == "onnxruntime"]
    assert not runtime["works"]
    assert "not installed" in runtime["problem"]
    assert runtime["add_it"] == "pip install 'vqrae[onnxruntime]'"


def test_photographs(vqrae: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqrae.images.photographs.TRAIN", {"coins": data.coins})
    monkeypatch.setattr("vqrae.images.photographs.HELD_OUT", {"cat": data.cat})
    folder = tmp_path / "photographs"
    assert "1 photographs to train on, 1 held out" in " ".join(vqrae.done("photographs", folder).out.split())
    assert (folder / "held-out" / "cat.png").is_file()
    assert "pass --overwrite" in vqrae.refused(2, "photographs", folder)
    vqrae.done("photographs", folder, "--overwrite")


def test_photographs_with_crops_to_calibrate_on(
    vqrae: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqrae.images.photographs.TRAIN", {"coins": data.coins, "camera": data.camera})
    monkeypatch.setattr("vqrae.images.photographs.HELD_OUT", {"cat": data.cat})
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    shown = " ".join(vqrae.done("photographs", one, "--crops", "3").out.split())
    assert shown.endswith("2 photographs to train on, 1 held out, 3 crops to calibrate on")
    made = sorted((one / "calibration").iterdir())
    assert [path.name for path in made] == ["0000.png", "0001.png", "0002.png"]
    for number, path in enumerate(made):
        shorter = min((data.coins, data.camera)[number % 2]().shape)
        with Image.open(path) as image:
            assert image.width == image.height
            assert shorter // 4 <= image.width <= shorter
    assert len(list((one / "train").iterdir())) == 2
    vqrae.done("photographs", other, "--crops", "3")
    again = sorted((other / "calibration").iterdir())
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again], "named by their seed"
    vqrae.done("photographs", none)
    assert not (none / "calibration").exists()
    assert "crops" in vqrae.refused(2, "photographs", tmp_path / "new", "--crops", "-1")


# --- formats, export ---


def test_formats(vqrae: Command) -> None:
    found = vqrae.done("formats", "--json").json()
    assert found["onnx"] == {
        "runtime": "onnxruntime",
        "precisions": ["fp32", "fp16", "int8", "int8-weights"],
        "batch": ["dynamic", "fixed"],
        "aliases": ["ort"],
        "options": {},
    }
    assert found["tensorrt-rtx"]["options"]["compute-capabilities"]["default"] == "8.0,8.6,8.9,12.0"
    shown = vqrae.done("formats").out
    assert "--option inputs" in shown
    assert "[tensor]" in shown


@pytest.mark.slow
def test_export_of_several_formats_at_another_size(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundles"
    arguments = ("--format", "onnx", "--format", "ov", "--half", "--imgsz", "64x48", "--batch", "2")
    rows = vqrae.done("export", checkpoint_folder, "-o", output, "--data", photographs, *arguments, "--json").json()
    assert [(row["gate"], row["precision"], row["runtime"]) for row in rows] == [
        ("pass", "fp16", "onnxruntime"),
        ("pass", "fp16", "openvino"),
    ]
    names = ["test-siglip-64x48-onnx-fp16", "test-siglip-64x48-openvino-fp16"]
    assert [Path(row["bundle"]).name for row in rows] == names
    manifest = Bundle.open(rows[1]["bundle"]).manifest
    assert (manifest.tokens.grid, manifest.preprocessing.height) == ((8, 6), 64)
    assert manifest.graphs["encode"].fixed_batch == 2
    assert {kept.layer for kept in manifest.precision.kept_float} >= {"scores", "LayerNorm", "softmax"}
    paths = [row["bundle"] for row in rows]
    shown = vqrae.done("verify", *paths, "--data", photographs).out
    assert "Interchange" in shown
    matrix = vqrae.done("verify", *reversed(paths), "--data", photographs, "--json").json()
    assert [row["bundle"] for row in matrix] == paths[::-1]
    assert all(set(row["interchange"]) == set(paths) for row in matrix)
    assert vqrae.done("eval", paths[0], "--data", photographs, "--json").json()["images"] == 2
    for option in (("--crops", "2"), ("--probe",)):
        error = vqrae.refused(2, "eval", paths[0], "--data", photographs, *option)
        assert f"{option[0]}: got a tokenizer of 64x48 images" in error
    taught = vqrae.done("eval", paths[0], "--data", photographs, "--teacher", checkpoint_folder, "--json").json()
    assert taught["frechet_space"].endswith("images resized from 64x48 to 32x32")
    bench = vqrae.done("bench", *paths, "--batch", "2", "--rounds", "6", "--bundles-only", "--json").json()
    assert [row["runtime"] for row in bench["rows"]] == ["onnxruntime", "openvino"] * 2
    assert all(0 < row["peak_share"] < 1 for row in bench["rows"])


@pytest.mark.usefixtures("traced_before")
def test_export_writes_a_verified_bundle(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundles"
    rows = vqrae.done("export", checkpoint_folder, "-o", output, "--data", photographs, "--json").json()
    (row,) = rows
    assert set(row) >= VERIFY
    assert (row["gate"], row["executed"], row["runtime"], row["precision"]) == ("pass", True, "onnxruntime", "fp32")
    assert row["bundle"] == str(output / "test-siglip-onnx-fp32")
    assert list(output.iterdir()) == [output / "test-siglip-onnx-fp32"]
    manifest = Bundle.open(row["bundle"]).manifest
    assert set(manifest.graphs) == {"encode", "decode"}
    assert manifest.evidence.gate == "pass"
    assert not manifest.checkpoint.random_weights
    error = vqrae.refused(2, "export", checkpoint_folder, "-o", output, "--data", photographs)
    assert "got a folder that exists" in error
    assert "--overwrite" in error


def test_export_refuses_an_existing_folder_before_any_work(
    vqrae: Command, checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqrae.checkpoint.from_pretrained", lambda source: pytest.fail("the weights were read"))
    (tmp_path / "test-siglip-openvino-fp32").mkdir()
    formats = ("--format", "onnx", "--format", "openvino")
    assert "got a folder that exists" in vqrae.refused(2, "export", checkpoint_folder, "-o", tmp_path, *formats)
    error = vqrae.refused(2, "export", checkpoint_folder, "-o", tmp_path / "new", "--imgsz", "33")
    assert "expected a multiple of the patch size, 8" in error


def test_an_alias_owns_an_option_too(vqrae: Command, checkpoint_folder: Path, tmp_path: Path) -> None:
    arguments = ("--format", "mlpackage", "--option", "mlpackage.inputs=video")
    error = vqrae.refused(2, "export", checkpoint_folder, "-o", tmp_path / "new", *arguments)
    assert "option inputs of coreml: got 'video'; expected 'tensor' or 'image'" in error


@pytest.mark.slow
def test_export_of_a_preset_says_random_weights(
    vqrae: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", tiny_config)
    output = tmp_path / "bundles"
    vqrae.done("export", "tiny", "-o", output, "--data", photographs, "--format", "onnx", "--precision", "fp32")
    (made,) = output.iterdir()
    assert vqrae.done("inspect", made, "--json").json()["checkpoint"]["random_weights"]
    assert "random weights, never trained" in vqrae.done("inspect", made).out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--format", "onx"],
            2,
            "format: got 'onx'; expected one of onnx, openvino, coreml, tensorrt, tensorrt-rtx; did you mean onnx?",
        ),
        (["--precision", "fp64"], 2, "precision of onnx: got 'fp64'; expected one of fp32, fp16"),
        (["--data", "nowhere"], 5, "nowhere: got no such file or folder; expected a folder, an image, a tar"),
        (["--imgsz", "36"], 2, "image height: got 36; expected a multiple of the patch size, 8; the nearest: 32 or 40"),
        (["--imgsz", "big"], 2, "--imgsz: got 'big'; expected a number, or HEIGHTxWIDTH"),
        (["--batch", "1:8:32"], 2, "batch of onnx: got a batch that is range; expected dynamic or fixed"),
        (["--batch", "some"], 2, "batch: got 'some'; expected dynamic, a number"),
        (["--option", "inputs=image"], 2, "option of onnx: got 'inputs'; expected none"),
        (["--option", "inputs"], 2, "--option: got 'inputs'; expected NAME=VALUE"),
        (
            ["--option", "coreml.inputs=image"],
            2,
            "format of --option coreml.inputs: got 'coreml'; expected one of onnx",
        ),
    ],
)
def test_export_refuses(
    vqrae: Command, checkpoint_folder: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in vqrae.refused(code, "export", checkpoint_folder, "-o", tmp_path / "bundles", *arguments)
    assert not (tmp_path / "bundles").exists()


def test_export_of_no_checkpoint(vqrae: Command, tmp_path: Path) -> None:
    error = vqrae.refused(5, "export", "nowhere", "-o", tmp_path / "bundles")
    assert "nowhere: got no such folder or preset; expected a checkpoint folder, or for random weights one of" in error


def test_export_of_a_damaged_checkpoint(vqrae: Command, checkpoint_folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(checkpoint_folder, tmp_path / "damaged"))
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "expected a whole safetensors file" in vqrae.refused(5, "export", damaged, "-o", tmp_path / "bundles")


@pytest.mark.usefixtures("impossible_gate", "traced_before")
def test_a_bundle_that_misses_its_gate(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, tmp_path: Path
) -> None:
    arguments = ("export", checkpoint_folder, "-o", tmp_path / "bundles", "--data", photographs)
    error = vqrae.refused(3, *arguments)
    assert "1000" in error
    assert "--allow-gate-failure" in error
    assert not (tmp_path / "bundles").exists(), "not written"
    (row,) = vqrae.done(*arguments, "--allow-gate-failure", "--json").json()
    assert row["gate"] == "fail"
    assert row["misses"]
    evidence = Bundle.open(row["bundle"]).manifest.evidence
    assert evidence.gate_failure_allowed
    assert "fail (written all the same)" in vqrae.done("inspect", row["bundle"]).out


# --- export at INT8 ---


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight crops of a photograph that nothing is verified on, and a copy of one of them."""
    folder = tmp_path_factory.mktemp("calibration")
    for number in range(8):
        Image.fromarray(data.coins()[:, number * 40 : number * 40 + 90]).save(folder / f"{number}.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    return folder


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 gains nothing at this size; a larger model sees it faster."""
    speed = GraphSpeed(int8_ms=1.0, float_ms=1.5, float_precision="fp32", speedup=1.5)
    monkeypatch.setattr("vqrae.export.build.graph_speeds", lambda *_: {"encode": speed, "decode": speed})


@pytest.mark.usefixtures("traced_before", "fast")
def test_export_at_int8(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, calibration: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundles"
    export = ("export", checkpoint_folder, "-o", output, "--data", photographs, "--int8")
    observed = ("--calibration", calibration, "--calibration-images", "8", "--calibration-seed", "3")
    budget = ("--max-excess-distortion", "0.05%", "--min-agreement", "0.9", "--max-psnr-drop", "0.05")
    outcome = vqrae.done(*export, *observed, *budget, "--json")
    (row,) = outcome.json()
    assert (row["precision"], row["gate"], row["misses"]) == ("int8", "pass", [])
    assert row["bundle"] == str(output / "test-siglip-onnx-int8")
    assert row["int8_share"] == pytest.approx(0.64)
    assert row["speedup"] == {"encode": 1.5, "decode": 1.5}
    manifest = Bundle.open(row["bundle"]).manifest
    assert manifest.calibration is not None
    assert (manifest.calibration.count, manifest.calibration.seed) == (8, 3)
    assert manifest.precision.budget == Budget(
        max_excess_distortion=0.0005, min_token_agreement=0.9, max_source_psnr_drop_db=0.05
    )
    shown = vqrae.done("inspect", row["bundle"]).out
    assert "calibrated on" in shown
    assert "8 images, seed 3, which use" in shown
    assert re.search(r"precision +INT8\n", shown)
    assert vqrae.done("verify", row["bundle"], "--data", photographs, "--json").json()[0]["gate"] == "pass"
    plan = output / "test-siglip-onnx-int8" / "plan.json"
    before = (plan.parent / "encode.onnx").read_bytes()
    shutil.copy(plan, tmp_path / "mine.json")
    shown = vqrae.done(*export, *observed, "--plan", tmp_path / "mine.json", "--overwrite").out
    assert "INT8 does 64% of the multiplications" in " ".join(shown.split())
    assert (plan.parent / "encode.onnx").read_bytes() == before, "a bundle's plan gives the same graphs"


@pytest.mark.usefixtures("traced_before")
def test_export_of_weights_at_int8(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without images to calibrate on; that it is slower is told."""
    speed = GraphSpeed(int8_ms=2.0, float_ms=1.0, float_precision="fp32", speedup=0.5)
    monkeypatch.setattr("vqrae.export.build.graph_speeds", lambda *_: {"encode": speed, "decode": speed})
    export = ("export", checkpoint_folder, "-o", tmp_path, "--data", photographs, "--int8", "--weight-only")
    shown = " ".join(vqrae.done(*export).out.split())
    assert "test-siglip-onnx-int8-weights: speed against float: encode 0.50×, decode 0.50×" in shown
    assert "of the multiplications" not in shown
    bundle = tmp_path / "test-siglip-onnx-int8-weights"
    assert re.search(r"precision +INT8 weights\n", vqrae.done("inspect", bundle).out)
    shown = " ".join(vqrae.done("verify", bundle, "--data", photographs).out.split())
    assert "test-siglip-onnx-int8-weights: speed against float: not measured" in shown


@pytest.mark.usefixtures("traced_before", "fast")
def test_what_is_passed_over_among_calibration_images_is_told(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, calibration: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(calibration, tmp_path / "calibration"))
    for number in range(20):
        shutil.copy(folder / "1.png", folder / f"again {number}.png")
    (folder / "._1.png").write_bytes(b"")
    (folder / "labels.txt").write_text("")
    arguments = ("--int8", "--calibration", folder, "--calibration-images", "8", "--json")
    outcome = vqrae.done("export", checkpoint_folder, "-o", tmp_path / "new", "--data", photographs, *arguments)
    assert re.search(r"calibration: passed over (a duplicate|\d+ duplicates)\n", outcome.err)
    assert "calibration: left out 2: 1 hidden (._1.png), 1 of other kinds (labels.txt)\n" in outcome.err
    told = outcome.json()[0]["calibration"]
    assert (told["taken"], told["damaged"]) == (8, [])
    assert [it["key"] for it in told["left_out"]] == ["._1.png", "labels.txt"]


@pytest.mark.usefixtures("traced_before", "fast")
def test_calibration_images_of_another_domain_are_told(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, calibration: Path, tmp_path: Path
) -> None:
    arguments = ("--int8", "--calibration", calibration, "--calibration-images", "8")
    outcome = vqrae.done("export", checkpoint_folder, "-o", tmp_path / "new", "--data", photographs, *arguments)
    manifest = Bundle.open(tmp_path / "new" / "test-siglip-onnx-int8").manifest
    assert manifest.calibration is not None
    assert manifest.calibration.codebook_coverage < 0.1
    assert "of another domain, or too few" in outcome.err


@pytest.mark.usefixtures("traced_before", "fast")
def test_a_missed_budget_is_refused_and_can_be_allowed(
    vqrae: Command,
    checkpoint_folder: Path,
    photographs: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, "int8", min_decode_psnr_db=1000)
    arguments = ("--int8", "--calibration", calibration, "--calibration-images", "8")
    export = ("export", checkpoint_folder, "-o", tmp_path / "new", "--data", photographs, *arguments)
    error = vqrae.refused(3, *export)
    assert "gate >= 1000 dB; pass --allow-gate-failure to write it, marked" in error
    assert not (tmp_path / "new").exists()
    (row,) = vqrae.done(*export, "--allow-gate-failure", "--json").json()
    assert row["gate"] == "fail"
    assert "fail (written all the same)" in vqrae.done("inspect", row["bundle"]).out
    assert "gate >= 1000 dB" in vqrae.refused(3, "verify", row["bundle"], "--data", photographs)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--int8"],
            2,
            "--calibration: got nothing; expected images, because of int8; pass --calibration FOLDER; "
            "`vqrae photographs FOLDER --crops 128` writes some",
        ),
        (["--int8", "--calibration", "nowhere"], 5, "nowhere: got no such file or folder; expected a folder, an"),
        (
            ["--int8", "--calibration", "CALIBRATION"],
            2,
            "got 8 different ones and 1 that equal one of them; expected at least 128; give more, or ask for fewer "
            "with --calibration-images 8",
        ),
        (
            ["--int8", "--calibration", "PHOTOGRAPHS", "--calibration-images", "2"],
            2,
            ", which the result is verified on; expected other images; leave it out",
        ),
        (["--int8", "--calibration-images", "0"], 2, "calibration-images"),
        (["--weight-only"], 2, "--weight-only: got precision fp32; expected --int8"),
        (["--weight-only", "--half"], 2, "--weight-only: got precision fp16; expected --int8"),
        (
            ["--int8", "--weight-only", "--calibration", "CALIBRATION"],
            2,
            "--calibration: got precision int8-weights; expected --precision int8",
        ),
        (["--int8", "--calibration-seed", "-1"], 2, "calibration-seed"),
        (
            ["--int8", "--max-excess-distortion", "much"],
            2,
            "--max-excess-distortion: got 'much'; expected a share from",
        ),
        (
            ["--int8", "--max-excess-distortion", "101%"],
            2,
            "--max-excess-distortion: got '101%'; expected a share from",
        ),
        (["--int8", "--max-excess-distortion", "-1%"], 2, "--max-excess-distortion: got '-1%'; expected a share from"),
        (["--int8", "--min-agreement", "1.5"], 2, "--min-agreement: got '1.5'; expected a share from 0 to 100%"),
        (["--int8", "--min-agreement", "nan"], 2, "--min-agreement: got 'nan'; expected a share from 0 to 100%"),
        (["--int8", "--min-agreement", "%"], 2, "--min-agreement: got '%'; expected a share from 0 to 100%"),
        (["--int8", "--max-psnr-drop", "much"], 2, "max-psnr-drop"),
        (
            ["--int8", "--plan", "nowhere.json"],
            5,
            "nowhere.json: got No such file or directory; expected a plan's file",
        ),
        (
            ["--half", "--min-agreement", "97%"],
            2,
            "--plan and limits: got precision fp16; expected --precision int8",
        ),
        (["--plan", "PLAN"], 2, "--plan and limits: got precision fp32; expected --precision int8"),
        (["--int8", "--batch", "4"], 2, "batch of onnx at int8: got fixed at 4; expected dynamic"),
        (["--int8", "--split"], 2, "--split of onnx at int8: got the parts; expected the whole graphs only"),
        (
            ["--int8", "--split", "--format", "coreml"],
            2,
            "--split of coreml at int8: got the parts; expected the whole",
        ),
    ],
)
def test_export_at_int8_refuses(
    vqrae: Command,
    checkpoint_folder: Path,
    photographs: Path,
    calibration: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "plan.json").write_text('{"layers": {}}')
    places = {"CALIBRATION": calibration, "PHOTOGRAPHS": photographs, "PLAN": tmp_path / "plan.json"}
    typed = [places.get(argument, argument) for argument in arguments]
    output = tmp_path / "bundles"
    error = vqrae.refused(code, "export", checkpoint_folder, "-o", output, "--data", photographs, *typed)
    assert message in error
    assert not output.exists()


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_a_limit_in_db_that_is_no_number(vqrae: Command, checkpoint_folder: Path, tmp_path: Path, text: str) -> None:
    arguments = ("-o", tmp_path / "new", "--int8", "--max-psnr-drop", text)
    assert "--max-psnr-drop" in vqrae.refused(2, "export", checkpoint_folder, *arguments)


@pytest.mark.usefixtures("traced_before")
def test_calibration_images_without_int8_are_refused(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, calibration: Path, tmp_path: Path
) -> None:
    arguments = ("-o", tmp_path / "new", "--data", photographs, "--calibration", calibration)
    assert "--precision int8" in vqrae.refused(2, "export", checkpoint_folder, *arguments)


def test_no_calibration_images_are_refused_before_any_work(
    vqrae: Command, checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqrae.checkpoint.from_pretrained", lambda source: pytest.fail("the weights were read"))
    assert "--calibration: got nothing" in vqrae.refused(
        2, "export", checkpoint_folder, "-o", tmp_path / "new", "--int8"
    )


@pytest.mark.usefixtures("traced_before", "fast")
def test_a_plan_of_another_architecture(
    vqrae: Command, checkpoint_folder: Path, photographs: Path, calibration: Path, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text('{"layers": {"encoder.blocks.0.upp": "int8"}}')
    arguments = ("--int8", "--calibration", calibration, "--calibration-images", "8", "--plan", tmp_path / "plan.json")
    export = ("export", checkpoint_folder, "-o", tmp_path / "new", "--data", photographs, *arguments)
    error = vqrae.refused(2, *export)
    assert "layer of the plan: got 'encoder.blocks.0.upp'" in error
    assert "did you mean encoder.blocks.0.up?" in error
    assert not (tmp_path / "new").exists()


# --- verify, inspect, selftest ---


def test_verify(vqrae: Command, exported: Path, photographs: Path) -> None:
    (row,) = vqrae.done("verify", exported, "--data", photographs, "--json").json()
    assert set(row) >= VERIFY
    assert (row["gate"], row["images"], row["unexplained_mismatches"]) == ("pass", 2, 0)
    assert row["excess_distortion"] <= 1e-6
    assert row["token_agreement"] >= 0.999
    assert row["decode_psnr_db"] >= 60
    shown = vqrae.done("verify", exported, exported, "--images", "1").out
    assert shown.count("pass") == 2


@pytest.mark.usefixtures("impossible_gate")
def test_verify_of_a_bundle_below_its_gate(vqrae: Command, exported: Path, photographs: Path) -> None:
    assert "1000" in vqrae.refused(3, "verify", exported, "--data", photographs)
    outcome = vqrae("verify", exported, "--data", photographs, "--json")
    assert outcome.code == 3
    assert outcome.json()[0]["gate"] == "fail", "the rows are printed all the same"


def test_verify_against_another_checkpoint(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    save_pretrained(tiny_model(seed=1), tmp_path / "other")
    error = vqrae.refused(5, "verify", exported, "--reference", tmp_path / "other")
    assert "of test-siglip" in error


@pytest.mark.parametrize("verb", ["inspect", "verify", "selftest"])
def test_a_flipped_byte(vqrae: Command, bundle: Path, verb: str) -> None:
    flip_a_byte(bundle / "encode.onnx")
    error = vqrae.refused(5, verb, bundle)
    assert "encode.onnx" in error
    assert "export it again" in error


@pytest.mark.parametrize("verb", ["inspect", "verify", "selftest"])
def test_no_bundle(vqrae: Command, tmp_path: Path, verb: str) -> None:
    assert "nowhere" in vqrae.refused(5, verb, tmp_path / "nowhere")


def test_a_missing_file(vqrae: Command, bundle: Path) -> None:
    (bundle / "decode.onnx").unlink()
    assert "decode.onnx" in vqrae.refused(5, "inspect", bundle)


def test_a_manifest_of_a_newer_major_version(vqrae: Command, bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": "2.0"}))
    assert "2.0" in vqrae.refused(5, "inspect", bundle)


def test_inspect(vqrae: Command, exported: Path) -> None:
    manifest = vqrae.done("inspect", exported, "--json").json()
    assert manifest == json.loads((exported / "manifest.json").read_text())
    shown = vqrae.done("inspect", exported).out
    assert "4×4 of 64 codes; features 32 wide" in shown
    assert "all hashes match" in shown
    assert "device cpu, precision not told by ONNX Runtime" in shown


def test_inspect_says_who_gave_the_evidence(vqrae: Command, bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    evidence = manifest.evidence
    assert evidence.figures is not None
    write_manifest(bundle, manifest.model_copy(update={"evidence": evidence.model_copy(update={"means": "evaluator"})}))
    assert "by an evaluator, operation by operation" in vqrae.done("inspect", bundle).out
    source = SourceEvidence(runtime="onnxruntime", runtime_version="1.2", gate="pass", figures=evidence.figures)
    never = Evidence(executed=False, reason="no GPU", gate="not-executed", source=source)
    write_manifest(bundle, manifest.model_copy(update={"evidence": never}))
    shown = vqrae.done("inspect", bundle).out
    assert "no: no GPU" in shown
    assert "pass, on onnxruntime 1.2" in shown


def test_selftest(vqrae: Command, exported: Path) -> None:
    report = vqrae.done("selftest", exported, "--json", "--threads", "1").json()
    assert set(report) >= {"bundle", "runtime", "runtime_version", "precision", "device", "gate", "token_agreement"}
    assert (report["gate"], report["preprocessing_equal"], report["unexplained_mismatches"]) == ("pass", True, 0)
    assert "selftest: pass" in vqrae.done("selftest", exported).out


@pytest.mark.usefixtures("impossible_gate")
def test_selftest_below_the_gate(vqrae: Command, exported: Path) -> None:
    assert "other results than the golden samples" in vqrae.refused(3, "selftest", exported)


def test_a_device_that_is_not_there(vqrae: Command, exported: Path) -> None:
    error = vqrae.refused(4, "selftest", exported, "--device", "cuda")
    assert "cuda" in error.lower()


def test_a_runtime_that_is_not_installed(vqrae: Command, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.RUNTIMES["onnxruntime"]
    monkeypatch.setitem(sys.modules, entry.module, None)
    monkeypatch.delitem(sys.modules, entry.backend.split(":")[0], raising=False)
    error = vqrae.refused(4, "selftest", exported)
    assert "not installed" in error
    assert "pip install 'vqrae[onnxruntime]'" in error


# --- encode, decode, reconstruct ---


def test_encode_and_decode(vqrae: Command, exported: Path, photographs: Path, tmp_path: Path) -> None:
    tokens, features, output = tmp_path / "tokens.npy", tmp_path / "features.npy", tmp_path / "images"
    paths = sorted(photographs.glob("*.png"))
    shown = vqrae.done("encode", exported, *paths, "-o", tokens, "--features", features).out
    assert "int32 (2, 4, 4)" in " ".join(shown.split())
    assert (np.load(tokens).dtype, np.load(tokens).shape) == (np.int32, (2, 4, 4))
    assert np.load(features).shape == (2, 16, 32)
    vqrae.done("decode", exported, tokens, "-o", output)
    assert sorted(path.name for path in output.iterdir()) == ["000.png", "001.png"]
    with Image.open(output / "000.png") as image:
        assert image.size == (32, 32)
    assert "--overwrite" in vqrae.refused(2, "decode", exported, tokens, "-o", output)


def test_reconstruct(vqrae: Command, exported: Path, photographs: Path, tmp_path: Path) -> None:
    vqrae.done("reconstruct", exported, photographs / "cat.png", "-o", tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.height > picture.width, "the result is below its original"


@pytest.mark.parametrize("content", [b"text with an image's name", b"\x89PNG\r\n\x1a\n", b""])
def test_encode_of_no_image(vqrae: Command, exported: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    error = vqrae.refused(5, "encode", exported, tmp_path / "photo.png", "-o", tmp_path / "tokens.npy")
    assert "photo.png" in error
    assert not (tmp_path / "tokens.npy").exists()


def test_encode_of_a_missing_image(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    assert "nowhere.png" in vqrae.refused(5, "encode", exported, "nowhere.png", "-o", tmp_path / "tokens.npy")


def test_an_output_that_cannot_be_written(vqrae: Command, exported: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "tokens.npy"
    assert f"{tmp_path / 'file' / 'tokens.npy'}: got Not a directory" in vqrae.refused(
        1, "encode", exported, photographs / "cat.png", "-o", output
    )


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.full((1, 4, 4), 64), "64"),
        (np.full((1, 4, 4), -1), "-1"),
        (np.zeros((1, 4, 5), int), "(1, 4, 5)"),
        (np.zeros((1, 4, 4)), "float64"),
        (np.zeros((1, 4, 4), bool), "bool"),
    ],
    ids=["too large", "negative", "another grid", "float", "bool"],
)
def test_decode_of_bad_indices(
    vqrae: Command, exported: Path, tmp_path: Path, indices: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "tokens.npy", indices)
    assert message in vqrae.refused(5, "decode", exported, tmp_path / "tokens.npy", "-o", tmp_path / "images")
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_decode_of_no_npy_file(vqrae: Command, exported: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens.npy").write_bytes(content)
    error = vqrae.refused(5, "decode", exported, tmp_path / "tokens.npy", "-o", tmp_path / "images")
    assert "tokens.npy" in error


def test_decode_of_an_archive_of_arrays(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "tokens.npz", np.zeros((1, 4, 4), int))
    error = vqrae.refused(5, "decode", exported, tmp_path / "tokens.npz", "-o", tmp_path / "images")
    assert "expected a .npy file of integers" in error


def test_decode_of_a_missing_file(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    error = vqrae.refused(5, "decode", exported, tmp_path / "nowhere.npy", "-o", tmp_path / "images")
    assert "nowhere.npy" in error


# --- eval, train ---


def test_eval_of_a_checkpoint_and_of_its_bundle(
    vqrae: Command, checkpoint_folder: Path, exported: Path, photographs: Path
) -> None:
    of_checkpoint, of_bundle = (
        vqrae.done("eval", source, "--data", photographs, "--json").json() for source in (checkpoint_folder, exported)
    )
    assert of_checkpoint["psnr_db"] == pytest.approx(of_bundle["psnr_db"], abs=0.01)
    assert of_checkpoint["ssim"] == pytest.approx(of_bundle["ssim"], abs=1e-4)
    assert of_checkpoint["frechet_distance"] == pytest.approx(of_bundle["frechet_distance"], rel=1e-3)
    assert of_checkpoint["frechet_space"] == "its own features, 32 wide, mean over tokens"
    assert [of_checkpoint[name] for name in ("codebook_usage", "perplexity")] == [
        of_bundle[name] for name in ("codebook_usage", "perplexity")
    ]
    assert (of_checkpoint["images"], of_checkpoint["tokens"]) == (2, 32)
    assert of_checkpoint["effective_rank"] > 1
    assert of_bundle["effective_rank"] is None
    assert [note.partition(":")[0] for note in of_bundle["notes"] if "rfid" not in note] == [
        "frechet_distance",
        "effective_rank, feature_norm, code_norm",
    ]
    shown = vqrae.done("eval", exported, "--data", photographs).out
    assert "perplexity" in shown
    assert "2 images in 32 dimensions: the covariances are singular" in shown
    assert "pass --checkpoint" in shown


def test_eval_of_a_bundle_with_its_checkpoint(
    vqrae: Command, checkpoint_folder: Path, exported: Path, photographs: Path
) -> None:
    arguments = ("--data", photographs, "--crops", "40", "--teacher", checkpoint_folder, "--json")
    of_checkpoint = vqrae.done("eval", checkpoint_folder, *arguments).json()
    of_bundle = vqrae.done("eval", exported, "--checkpoint", checkpoint_folder, *arguments).json()
    assert of_bundle["source"] == str(exported)
    assert [note for note in of_bundle["notes"] if "rfid" not in note] == []
    named = {name: value for name, value in of_checkpoint.items() if isinstance(value, float)}
    assert set(named) >= {"frechet_distance", "effective_rank", "feature_norm", "code_norm", "perplexity"}
    assert {name: of_bundle[name] for name in named} == pytest.approx(named, rel=1e-3)
    assert of_bundle["frechet_space"].startswith(f"encoder of {checkpoint_folder}")


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_eval_says_why_there_is_no_rfid(vqrae: Command, exported: Path, photographs: Path) -> None:
    report = vqrae.done("eval", exported, "--data", photographs, "--json").json()
    assert report["rfid"] is None
    (note,) = [note for note in report["notes"] if note.startswith("rfid")]
    assert "pip install 'vqrae[fid]'" in note


def test_eval_refuses_another_checkpoint(vqrae: Command, exported: Path, photographs: Path, tmp_path: Path) -> None:
    save_pretrained(tiny_model(seed=1), tmp_path / "other")
    arguments = ("eval", exported, "--data", photographs, "--checkpoint")
    expected = Bundle.open(exported).manifest.checkpoint.weights_sha256[:12]
    error = vqrae.refused(5, *arguments, tmp_path / "other")
    assert f"reference {tmp_path / 'other'}: got SHA-256" in error
    assert f"expected {expected}… of test-siglip; give the checkpoint that the bundle was made of" in error
    assert "pass --checkpoint CHECKPOINT" in vqrae.refused(2, *arguments, tmp_path)


def test_eval_refuses_what_makes_no_sense(
    vqrae: Command, checkpoint_folder: Path, exported: Path, photographs: Path, tmp_path: Path
) -> None:
    of_checkpoint = ("eval", checkpoint_folder, "--data", photographs)
    assert "which is no bundle" in vqrae.refused(2, *of_checkpoint, "--checkpoint", checkpoint_folder)
    assert "--device: got cuda; expected cpu" in vqrae.refused(2, *of_checkpoint, "--device", "cuda")
    assert "a Hugging Face checkpoint" in vqrae.refused(5, *of_checkpoint, "--teacher", tmp_path)
    assert "suffix '.txt'" in vqrae.refused(2, *of_checkpoint, "--picture", tmp_path / "a.txt")
    (tmp_path / "broken.png").write_bytes(b"no photograph")
    assert "got 1 of 1 images that cannot be read" in vqrae.refused(5, "eval", exported, "--data", tmp_path)


def test_eval_draws_a_picture_and_limits_the_images(
    vqrae: Command, exported: Path, photographs: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    report = vqrae.done("eval", exported, "--data", photographs, "--images", "1", "--picture", picture, "--json").json()
    assert (report["images"], report["frechet_distance"]) == (1, None)
    with Image.open(picture) as drawn:
        assert drawn.width == 256 + 64


def test_eval_probes_the_features(
    vqrae: Command, exported: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqrae.images.photographs.TRAIN", {"coins": data.coins})
    monkeypatch.setattr("vqrae.images.photographs.HELD_OUT", {"cat": data.cat})
    outcome = vqrae.done("eval", exported, "--data", photographs, "--probe", "--json")
    probe = outcome.json()["probe"]
    assert list(probe) == ["shape", "color", "position", "count", "mean"]
    assert probe["color"] > 1 / 8


def test_eval_on_crops_is_named_by_its_seed(vqrae: Command, exported: Path, photographs: Path) -> None:
    arguments = ("eval", exported, "--data", photographs, "--crops", "5", "--color-jitter", "0.5", "--json")
    first, again, other = (vqrae.done(*arguments, "--seed", seed).json() for seed in (1, 1, 2))
    assert first == again
    assert first["psnr_db"] != other["psnr_db"]
    assert first["images"] == 5


def test_eval_without_photographs(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    assert "got no images; expected" in vqrae.refused(5, "eval", exported, "--data", tmp_path)


def test_eval_of_nothing(vqrae: Command, photographs: Path, tmp_path: Path) -> None:
    assert "nowhere" in vqrae.refused(5, "eval", tmp_path / "nowhere", "--data", photographs)


def test_train(vqrae: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "end_factor": 0.5, "warmup": 0}
    encoder = {**phase, "encoder_learning_rate": 1e-3}
    config = tiny_config(codebook_size=16, init="features")
    tiny = Recipe(
        model=config, pretrain=PretrainConfig(**encoder), stage1=Stage1Config(**phase), stage2=Stage2Config(**encoder)
    )
    monkeypatch.setattr("vqrae.training.config.recipe", lambda _: tiny)
    arguments = ("train", "tiny", "--data", photographs, "-o", tmp_path / "run")
    assert "run stage 1 first" in vqrae.refused(2, *arguments, "--phase", "stage2")
    vqrae.done(*arguments, "--phase", "pretrain")
    vqrae.done(*arguments)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "encoder",
        "run.json",
        "stage1",
        "stage2",
        "state",
    ]
    vqrae.done("eval", tmp_path / "run" / "stage2", "--data", photographs)


def test_train_plans_a_run(vqrae: Command) -> None:
    planned = vqrae.done("train", "tiny", "--dry-run", "--devices", 2, "--set", "stage1.steps=7", "--json").json()
    assert (planned["devices"], planned["phases"][0]["steps"]) == (2, 7)
    assert "4 on a device" in vqrae.done("train", "tiny", "--dry-run").out
    assert "a divisor of stage1's batch" in vqrae.refused(2, "train", "tiny", "--dry-run", "--devices", 3)


def test_train_refuses(vqrae: Command, photographs: Path, tmp_path: Path) -> None:
    run = ("-o", tmp_path / "run")
    assert "did you mean tiny?" in vqrae.refused(2, "train", "tinny", "--data", photographs, *run)
    assert "got no such file or folder" in vqrae.refused(5, "train", "tiny", "--data", tmp_path / "nowhere", *run)
    assert "did you mean stage1.steps?" in vqrae.refused(
        2, "train", "tiny", "--data", photographs, *run, "--set", "stage1.step=2"
    )
    assert "expected KEY=VALUE" in vqrae.refused(2, "train", "tiny", "--data", photographs, *run, "--set", "steps")
    assert "got no --output" in vqrae.refused(2, "train", "tiny", "--data", photographs)
    error = vqrae.refused(5, "train", "tiny", "--data", photographs, *run, "--encoder", str(tmp_path / "nowhere"))
    assert "got no such folder; expected a checkpoint's folder" in error


# --- pack, unpack, keys, sign ---


def test_a_bundle_is_shipped_signed(vqrae: Command, bundle: Path, tmp_path: Path) -> None:
    archive, again = tmp_path / "bundle.tar", tmp_path / "again"
    vqrae.done("keys", "-o", tmp_path / "ours")
    assert "SHA-256" in vqrae.done("pack", bundle, "-o", archive).out
    vqrae.done("sign", archive, "--key", tmp_path / "ours.key")
    key = ("--public-key", tmp_path / "ours.pub")
    assert "all hashes match, signed by" in vqrae.done("unpack", archive, "-o", again, *key).out
    assert "again.sig: got no such file" in vqrae.refused(5, "selftest", again, *key)
    shutil.copyfile(tmp_path / "bundle.tar.sig", tmp_path / "again.sig")
    assert vqrae.done("selftest", again, *key, "--json").json()["gate"] == "pass"
    assert "valid, by" in vqrae.done("inspect", again, *key).out
    photograph, tokens = again / "golden" / "source-00.png", tmp_path / "tokens.npy"
    vqrae.done("encode", again, photograph, "-o", tokens, *key)
    vqrae.done("decode", again, tokens, "-o", tmp_path / "decoded", *key)
    vqrae.done("reconstruct", again, photograph, "-o", tmp_path / "picture.png", *key)
    (tmp_path / "again.sig").write_bytes(b"\0" * 64)
    for verb in (("selftest", again), ("inspect", again), ("encode", again, photograph, "-o", tokens)):
        assert "got another signature" in vqrae.refused(5, *verb, *key)
    assert "pass --overwrite" in vqrae.refused(2, "unpack", archive, "-o", again)
    assert "expected a packed bundle" in vqrae.refused(5, "unpack", photograph, "-o", tmp_path / "no")
    assert "vqrae unpack FILE" in vqrae.refused(5, "inspect", archive)
    assert "got a file that exists" in vqrae.refused(2, "keys", "-o", tmp_path / "ours")


def test_a_bundle_becomes_a_model_repository(vqrae: Command, bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shown = vqrae.done("package", bundle, "--for", "triton", "-o", models, "--max-batch", "8").out
    assert "tritonserver --model-repository" in shown
    assert "max_batch_size: 8" in (models / "encode" / "config.pbtxt").read_text()
    assert "pass --overwrite" in vqrae.refused(2, "package", bundle, "--for", "triton", "-o", models)
    assert "export it with --format openvino" in vqrae.refused(2, "package", bundle, "--for", "ovms", "-o", models)
    assert "torchserve" in vqrae.refused(2, "package", bundle, "--for", "torchserve", "-o", models)
    assert "--max-batch" in vqrae.refused(2, "package", bundle, "--for", "ovms", "-o", models, "--max-batch", "2")


def test_folders_are_encoded_and_what_is_left_out_is_told(
    vqrae: Command, exported: Path, photographs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "folder"))
    (folder / "notes.txt").write_text("no image")
    outcome = vqrae.done("encode", exported, folder, photographs / "cat.png", "-o", tmp_path / "tokens.npy")
    assert f"{folder}: left out 1: 1 of other kinds (notes.txt)" in " ".join(outcome.err.split())
    tokens = np.load(tmp_path / "tokens.npy")
    assert len(tokens) == 3
    np.testing.assert_array_equal(tokens[2], tokens[0])
    vqrae.done("reconstruct", exported, folder, "-o", tmp_path / "picture.png")
    shown = vqrae.done("eval", exported, "--data", folder, "--json")
    assert "left out 1: 1 of other kinds (notes.txt)" in shown.json()["notes"]

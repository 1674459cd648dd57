"""`vqrae teach`, `vqrae generate` and `vqrae eval --task` through `main`, on the small checkpoint and its bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import tiny_model

from vqrae.checkpoint import save_pretrained
from vqrae.cli.app import main
from vqrae.runtimes.signature import make_keys

FEW = [part for one in ("phase.steps=2", "phase.batch_size=2", "images=8") for part in ("--set", one)]
SMALL = [part for one in ("language.width=16", "language.depth=1", "language.heads=2") for part in ("--set", one)]
PROMPT = "two red crosses at the top left on brick"


@pytest.fixture
def vqrae(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


Command = Callable[..., tuple[int, str, str]]


def report(outcome: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


def refused(outcome: tuple[int, str, str], code: int) -> str:
    got, _, err = outcome
    assert got == code, err
    (line,) = [line for line in err.splitlines() if line.startswith("vqrae: ")]
    return line


@pytest.fixture(scope="module")
def taught(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    for lesson in ("answers", "images"):
        with pytest.raises(SystemExit) as ended:
            main(["teach", lesson, str(checkpoint_folder), "-o", str(folder / lesson), *FEW, *SMALL])
        assert not ended.value.code
    return folder


def test_images_of_prompts(
    vqrae: Command, taught: Path, checkpoint_folder: Path, exported: Path, tmp_path: Path
) -> None:
    """The same seed gives the same tokens; a bundle decodes them as the checkpoint does, to a level or two."""
    made = {}
    for source in (checkpoint_folder, exported):
        folder = tmp_path / source.name
        arguments = ("--model", taught / "images" / "painter", "--images", "2", "--seed", "3")
        code, out, err = vqrae("generate", source, PROMPT, "", *arguments, "-o", folder)
        assert code == 0, err
        assert "4 images of 32×32" in " ".join(out.split())
        made[source] = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]).astype(int)
    assert np.abs(made[checkpoint_folder] - made[exported]).max() <= 2


def test_tokens_of_prompts(vqrae: Command, taught: Path, exported: Path, tmp_path: Path) -> None:
    command = ("generate", exported, PROMPT, "--model", taught / "images" / "painter", "-o")
    assert vqrae(*command, tmp_path / "whole.npy")[0] == 0
    assert np.load(tmp_path / "whole.npy").shape == (1, 4, 4)
    assert vqrae(*command, tmp_path / "part.npy", "--new-tokens", "5")[0] == 0
    assert np.load(tmp_path / "part.npy").shape == (1, 5)
    assert "got 17; expected 1 to 16" in refused(vqrae(*command, tmp_path / "more.npy", "--new-tokens", "17"), 2)
    part = refused(vqrae(*command, tmp_path / "folder", "--new-tokens", "5"), 2)
    assert "--new-tokens: got 5; expected 16, the whole grid, or a .npy file as output" in part


def test_a_prompt_outside_the_world(vqrae: Command, taught: Path, exported: Path, tmp_path: Path) -> None:
    arguments = ("--model", taught / "images" / "painter", "-o", tmp_path / "images")
    line = refused(vqrae("generate", exported, "one pink ring", *arguments), 2)
    assert "words outside the model's vocabulary: 'pink'" in line
    assert not (tmp_path / "images").exists()


def test_codes_of_another_tokenizer(vqrae: Command, taught: Path, tmp_path: Path) -> None:
    save_pretrained(tiny_model(seed=1), tmp_path / "other")
    arguments = ("--model", taught / "images" / "painter", "-o", tmp_path / "images")
    assert "tokenizer's weights: got" in refused(vqrae("generate", tmp_path / "other", PROMPT, *arguments), 2)


def test_each_task_through_a_bundle(vqrae: Command, taught: Path, checkpoint_folder: Path, exported: Path) -> None:
    models = {"probe": [], "vqa": ["answers/reader"], "generate": ["images/painter"]}
    for task, model in models.items():
        arguments = ["--task", task, "--scenes", "8", "--json", *(f"--model={taught / part}" for part in model)]
        of_checkpoint = report(vqrae("eval", checkpoint_folder, *arguments))
        of_bundle = report(vqrae("eval", exported, "--checkpoint", checkpoint_folder, *arguments))
        assert of_bundle["token_agreement"] == 1.0
        assert of_checkpoint["token_agreement"] is None
        assert of_checkpoint["accuracy"].keys() == of_bundle["accuracy"].keys() == {"test", "held-out"}
        for split, shares in of_checkpoint["accuracy"].items():
            assert of_bundle["accuracy"][split] == pytest.approx(shares, abs=0.126)
    assert of_bundle["frechet_distance"] == pytest.approx(of_checkpoint["frechet_distance"], rel=0.05)
    shown = vqrae("eval", checkpoint_folder, "--task", "probe", "--scenes", "8")[1]
    assert "held-out" in shown


def test_what_a_task_needs(vqrae: Command, taught: Path, exported: Path) -> None:
    assert "expected a folder of photographs, or --task" in refused(vqrae("eval", exported), 2)
    line = refused(vqrae("eval", exported, "--task", "vqa"), 2)
    assert "--model of --task vqa: got none; expected a reader's folder, of `vqrae teach answers`" in line
    given = refused(vqrae("eval", exported, "--task", "probe", "--model", taught / "answers" / "reader"), 2)
    assert "expected none" in given


def test_a_bundle_without_features(vqrae: Command, exported: Path, tmp_path: Path) -> None:
    """A bundle that only decodes."""
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["graphs"]["encode"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    line = refused(vqrae("eval", bundle, "--task", "probe"), 5)
    assert "got graphs decode; expected the graph encode, whose output `features` the tasks read" in line
    assert line.endswith("export it with `vqrae export CHECKPOINT --format FORMAT -o FOLDER`")


def test_wrong_lessons(vqrae: Command, checkpoint_folder: Path, tmp_path: Path) -> None:
    command = ("teach", "images", checkpoint_folder, "-o", tmp_path / "run")
    assert "recipe of images: got 'llava-align'; expected one of world, paper" in refused(
        vqrae(*command, "--recipe", "llava-align"), 2
    )
    assert "--data and --images: got one without the other" in refused(vqrae(*command, "--data", "x.json"), 2)
    assert "did you mean phase.steps?" in refused(vqrae(*command, "--set", "phase.stps=3"), 2)


def test_generate_wants_the_signature(vqrae: Command, taught: Path, exported: Path, tmp_path: Path) -> None:
    key = make_keys(tmp_path / "ours")[1]
    arguments = ("--model", taught / "images" / "painter", "-o", tmp_path / "out", "--public-key", key)
    assert f"{exported}.sig" in refused(vqrae("generate", exported, PROMPT, *arguments), 5)


def test_a_checkpoint_has_no_signature(vqrae: Command, checkpoint_folder: Path, tmp_path: Path) -> None:
    line = refused(vqrae("eval", checkpoint_folder, "--task", "probe", "--public-key", tmp_path / "ours.pub"), 2)
    assert f"--public-key: got {checkpoint_folder}, a checkpoint; expected a bundle's folder" in line

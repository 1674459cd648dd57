"""The whole way on a small model: checkpoint, bundle, evidence, verdict, and what happens when something is wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_model

from vqrae.calibration.layers import node_layers
from vqrae.checkpoint import save_pretrained
from vqrae.export.build import BundleBuilder
from vqrae.export.formats import target
from vqrae.export.parity_images import parity_images
from vqrae.export.reference import reference_from_model, sample_from_tokenizer
from vqrae.export.tokenizers.vqrae import VqraeReference
from vqrae.export.verify import gather_evidence
from vqrae.runtimes.errors import BundleError, CheckpointError, GateFailure, RuntimeUnavailable, UsageError
from vqrae.runtimes.parity import judge_parity, measure, misses
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.selftest import selftest
from vqrae.runtimes.tokenizer import load
from vqrae.subject import reference_checkpoint

NAME = "test-siglip-onnx-fp32"


def test_the_bundle_passes_its_gate_and_says_so(exported: Path) -> None:
    with load(exported) as tokenizer:
        evidence = tokenizer.manifest.evidence
        figures = evidence.figures
    assert (evidence.executed, evidence.gate, evidence.device) == (True, "pass", "cpu")
    assert figures is not None
    assert figures.images == 8
    assert figures.token_agreement >= 0.999
    assert figures.excess_distortion <= 1e-6
    assert figures.decode_psnr_db >= 60


def test_selftest_replays_the_golden_samples(exported: Path) -> None:
    report = selftest(exported)
    assert (report.gate, report.preprocessing_equal) == ("pass", True)


def test_fresh_evidence_equals_the_manifest(exported: Path, builder: BundleBuilder) -> None:
    with load(exported) as tokenizer:
        assert gather_evidence(tokenizer, builder.reference).figures == tokenizer.manifest.evidence.figures


def test_photographs_on_disk_give_the_same_tokens(exported: Path, builder: BundleBuilder, tmp_path: Path) -> None:
    builder.images.photographs[0].save(tmp_path / "photograph.png")
    with load(exported) as tokenizer:
        np.testing.assert_array_equal(
            tokenizer.encode(tmp_path / "photograph.png").indices, tokenizer.encode(builder.images.images[:1]).indices
        )


def test_a_model_with_other_weights_fails_the_gate(exported: Path, builder: BundleBuilder) -> None:
    """The gate sees a transposed projection: not a matter of precision."""
    faulty = tiny_model()
    with torch.no_grad():
        out = faulty.encoder.network.encoder.layers[0].self_attn.out_proj.weight
        out.copy_(out.T.clone())
    with load(exported) as tokenizer:
        reference = reference_from_model(VqraeReference(faulty), builder.images.images)
        figures = measure(reference, sample_from_tokenizer(tokenizer, reference))
    assert misses(judge_parity(figures, PRECISIONS["fp32"].limits))


def test_what_a_runtime_refuses_is_named_with_the_model_s_layer(builder: BundleBuilder, exported: Path) -> None:
    """ONNX Runtime quotes the node that it has no kernel for; a reader wants to know where in the model that is."""
    layers = {name: node_layers(exported / f"{name}.onnx") for name in ("encode", "decode")}
    shared = [
        node
        for node in layers["encode"]
        if layers["decode"].get(node, layers["encode"][node]) != layers["encode"][node]
    ]
    assert shared, "encode and decode give one name to nodes of different layers"
    for name in ("encode", "decode"):
        refused = BundleError(f"bundle/{name}.onnx", got=f"no implementation for the node '{shared[0]}'")
        error = builder.sources.onnx.located(refused, "fp32", "batch")
        assert isinstance(error, RuntimeUnavailable)
        where = f"{name}.onnx, node {shared[0]} of the layer {layers[name][shared[0]]}: got no implementation"
        assert str(error).startswith(where)
    other = BundleError("encode.onnx", got="something else")
    assert builder.sources.onnx.located(other, "fp32", "batch") is other


def test_a_missed_gate_writes_nothing(builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = np.roll(builder.reference.indices, 1, axis=1)
    monkeypatch.setattr(builder, "reference", replace(builder.reference, indices=spoiled))
    with pytest.raises(GateFailure, match=r"token agreement .*, gate >= 99.9%; .*--allow-gate-failure"):
        builder.build(target("onnx"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_allowed_miss_is_marked(builder: BundleBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = np.roll(builder.reference.indices, 1, axis=1)
    monkeypatch.setattr(builder, "reference", replace(builder.reference, indices=spoiled))
    row = builder.build(target("onnx"), tmp_path, allow_gate_failure=True)
    assert row.gate == "fail"
    with load(tmp_path / NAME) as tokenizer:
        evidence = tokenizer.manifest.evidence
    assert (evidence.gate, evidence.gate_failure_allowed) == ("fail", True)


def test_an_existing_bundle_is_not_replaced_unasked(builder: BundleBuilder, exported: Path) -> None:
    with pytest.raises(UsageError, match=r"a folder that exists.*--overwrite"):
        builder.build(target("onnx"), exported.parent)


def test_the_reference_is_found_and_its_hash_checked(exported: Path, checkpoint_folder: Path, tmp_path: Path) -> None:
    with load(exported) as tokenizer:
        manifest = tokenizer.manifest
    assert reference_checkpoint(manifest, None).identity == manifest.checkpoint
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint_folder, moved)
    assert reference_checkpoint(manifest, str(moved)).identity.weights_sha256 == manifest.checkpoint.weights_sha256
    save_pretrained(tiny_model(seed=1), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"got SHA-256 .*…; expected .*… of test-siglip"):
        reference_checkpoint(manifest, str(tmp_path / "other"))
    gone = manifest.model_copy(update={"checkpoint": manifest.checkpoint.model_copy(update={"source": "/no/where"})})
    with pytest.raises(UsageError, match=r"reference /no/where: got no checkpoint's folder.*--reference"):
        reference_checkpoint(gone, None)


def test_parity_images_come_from_a_folder_or_the_held_out_photographs(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (50, 40), (number * 40, 90, 120)).save(tmp_path / f"{number}.png")
    chosen = parity_images(tmp_path, (32, 32), 2)
    assert chosen.names == ("0", "1")
    assert chosen.images.shape == (2, 32, 32, 3)
    held_out = parity_images(None, (32, 32), 5)
    assert held_out.names[:4] == ("astronaut", "cat", "coffee", "astronaut crop 3")
    np.testing.assert_array_equal(held_out.images, parity_images(None, (32, 32), 5).images)
    with pytest.raises(UsageError, match="number of images: got 0"):
        parity_images(None, (32, 32), 0)

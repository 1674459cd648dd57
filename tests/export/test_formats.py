"""What can be asked of `vqrae export`, judged by tables alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vqrae.export.batch import Batch
from vqrae.export.formats import FORMATS, format_of, target
from vqrae.export.formats.coreml import CoreMLOptions
from vqrae.export.formats.tensorrt import TensorRTRTXOptions
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.manifest import BatchLimits


def test_refusing_needs_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'numpy'): sys.modules[name] = None\n"
        "from vqrae.export.formats import target\n"
        "try: target('onxx')\n"
        "except Exception as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.endswith("did you mean onnx?\n")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"format_name": "onxx"}, "format: got 'onxx'; expected one of onnx, .*; did you mean onnx"),
        ({"format_name": "onnx", "precision": "int3"}, "precision of onnx: got 'int3'; expected one of fp32, fp16"),
        (
            {"format_name": "onnx", "options": {"workspace-mb": "1"}},
            "option of onnx: got 'workspace-mb'; expected none: it has no options of its own",
        ),
        (
            {"format_name": "coreml", "options": {"input": "image"}},
            r"option of coreml: got 'input'; expected one of inputs, target, author, license; did you mean inputs\?",
        ),
        (
            {"format_name": "coreml", "options": {"inputs": "video"}},
            "option inputs of coreml: got 'video'; expected 'tensor' or 'image'",
        ),
        (
            {"format_name": "tensorrt", "options": {"workspace-mb": "much"}},
            "option workspace-mb of tensorrt: got 'much'; expected a valid integer",
        ),
        (
            {"format_name": "tensorrt-rtx", "options": {"compute-capabilities": "8.0,9.9"}},
            "option compute-capabilities of tensorrt-rtx: got '9.9'; expected '7.5', .* or '12.1'",
        ),
        (
            {"format_name": "onnx", "batch": Batch.parse("1:8:32")},
            "batch of onnx: got a batch that is range; expected dynamic or fixed",
        ),
        (
            {"format_name": "coreml", "options": {"inputs": "image"}},
            "batch of coreml: got inputs that are images; expected a batch fixed at 1: .*; pass --batch 1",
        ),
        (
            {"format_name": "tensorrt", "batch": Batch.parse("1,2,4")},
            "batch of tensorrt: got a batch that is enumerated; expected dynamic or fixed or range",
        ),
    ],
)
def test_what_a_format_does_not_have_is_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target(**request_)


def test_options_are_read_as_typed() -> None:
    options = target("coreml", batch=Batch.parse("1"), options={"inputs": "image", "author": "we"}).options
    assert options == CoreMLOptions(inputs="image", author="we")
    options = target("tensorrt-rtx", options={"compute-capabilities": "8.6,8.9", "include-onnx": "false"}).options
    assert options == TensorRTRTXOptions(compute_capabilities=("8.6", "8.9"), include_onnx=False)
    options = target("tensorrt-rtx", options={"compute-capabilities": "8.9,8.6,8.9"}).options
    assert options == TensorRTRTXOptions(compute_capabilities=("8.9", "8.6"))


@pytest.mark.parametrize(("alias", "name"), [("engine", "tensorrt"), ("trt", "tensorrt"), ("mlpackage", "coreml")])
def test_names_that_users_know_from_elsewhere(alias: str, name: str) -> None:
    assert target(alias).format_name == name


@pytest.mark.parametrize(
    ("text", "axis", "limits"),
    [
        ("dynamic", "batch", None),
        ("4", 4, None),
        ("1:8:32", "batch", BatchLimits(least=1, best=8, most=32)),
        ("1,2,4", "batch", BatchLimits(least=1, most=4, only=(1, 2, 4))),
    ],
)
def test_forms_of_a_batch(text: str, axis: int | str, limits: BatchLimits | None) -> None:
    batch = Batch.parse(text)
    assert (batch.axis, batch.limits()) == (axis, limits)


def test_a_format_may_have_its_own_meaning_of_dynamic() -> None:
    own = BatchLimits(least=1, most=32)
    assert Batch.parse("dynamic").limits(own) == own
    assert Batch.parse("1:2:4").limits(own) == BatchLimits(least=1, best=2, most=4)


@pytest.mark.parametrize(
    "text", ["", "0", "many", "8:1:32", "1:2", "4,2", "2,2", "1,1,2", "1,", "-1", "1.5", "65537", "9" * 5000]
)
def test_what_is_no_batch_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"batch: got .*; expected dynamic, a number up to 65536, LEAST:BEST:MOST, or"):
        Batch.parse(text)


def test_every_option_says_what_it_is() -> None:
    for entry in map(format_of, FORMATS):
        assert all(field.description for field in entry.options.model_fields.values())

"""The evaluator: it computes what operations mean, in their own precision, and sees what a converter got wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_packages import converted, figures, hand_written, mb, package
from numpy.typing import NDArray
from tiny_models import random_images, tiny_model
from torch import nn

from vqrae.runtimes.backends import coreml_evaluator
from vqrae.runtimes.backends.coreml_evaluator import Evaluator
from vqrae.runtimes.backends.coreml_spec import read_spec
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.parity import judge_parity, misses
from vqrae.runtimes.precision import PRECISIONS


def evaluated(path: Path, feed: NDArray[Any]) -> NDArray[Any]:
    """The single output of a program of one input."""
    (given,) = Evaluator(path, read_spec(path)).run({"x": feed}).values()
    return given


def transposed_weight(module: Any) -> nn.Module:
    layer = module.encoder.blocks[0].out
    layer.weight = nn.Parameter(layer.weight.T.contiguous(), requires_grad=False)
    return module  # type: ignore[no-any-return] # a module of any class


def shifted_table(module: Any) -> nn.Module:
    module.codebook.table_KC = module.codebook.table_KC.roll(1, 0)
    return module  # type: ignore[no-any-return] # a module of any class


def test_a_transposed_weight_fails_the_gate(tmp_path: Path) -> None:
    faulty = package("encode", tmp_path, tiny_model(), change=transposed_weight)
    assert misses(judge_parity(figures(faulty, converted("decode")), PRECISIONS["fp16"].limits))


def test_a_gather_that_is_off_by_one_fails_the_gate(tmp_path: Path) -> None:
    faulty = package("decode", tmp_path, tiny_model(), change=shifted_table)
    (missed,) = [
        miss
        for miss in misses(judge_parity(figures(converted("encode"), faulty), PRECISIONS["int8"].limits))
        if "decode PSNR" in miss
    ]
    assert "gate >= 35 dB" in missed


def test_a_softmax_over_the_wrong_axis_fails_the_gate(tmp_path: Path) -> None:
    def with_wrong_axis(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.softmax.int:
                node.args = (node.args[0], -2)
        return program

    faulty = package("encode", tmp_path, tiny_model(), rewire=with_wrong_axis)
    assert misses(judge_parity(figures(faulty, converted("decode")), PRECISIONS["fp16"].limits))


def test_an_operation_that_is_not_covered_is_named(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        return mb.conv(x=x, weight=np.ones((1, 1, 1, 1), np.float32), name="stray")

    path = hand_written(tmp_path / "conv.mlpackage", body, 1, 1, 2, 2)
    message = r"^coreml evaluator at conv stray: got an operation that it does not cover; execute it on a Mac"
    with pytest.raises(RuntimeUnavailable, match=message):
        evaluated(path, np.zeros((1, 1, 2, 2), np.float32))


def test_an_operation_that_fails_is_named() -> None:
    path, _ = converted("decode")
    evaluator = Evaluator(path, read_spec(path))
    with pytest.raises(RuntimeUnavailable, match=r"^coreml evaluator at gather embedding: got a failed run \(index 64"):
        evaluator.run({"indices": np.full((1, 4, 4), 64, np.int32)})


def test_fp16_is_computed_in_fp16(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        return mb.cast(x=mb.add(x=half, y=np.float16(1)), dtype="fp32")

    path = hand_written(tmp_path / "half.mlpackage", body, 4)
    # From 2048 on FP16 has even numbers only, and the halves between them go to the multiples of four.
    values = np.array([2047, 2048, 2050, 70000], np.float32)
    np.testing.assert_array_equal(evaluated(path, values), np.array([2048, 2048, 2052, np.inf], np.float32))


def test_a_matrix_product_of_fp16_is_rounded_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 40)).astype(np.float16), rng.standard_normal((5, 40)).astype(np.float16)

    def body(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        product = mb.matmul(x=half, y=mb.transpose(x=half, perm=[1, 0]), transpose_y=False)
        linear = mb.linear(x=half, weight=weight, bias=weight[:, 0])
        return mb.cast(x=mb.concat(values=[product, linear], axis=1), dtype="fp32")

    exact = x.astype(np.float64)
    wanted = np.concatenate([exact @ exact.T, exact @ weight.T.astype(np.float64) + weight[:, 0]], axis=1)
    found = evaluated(hand_written(tmp_path / "product.mlpackage", body, 3, 40), x.astype(np.float32))
    np.testing.assert_array_equal(found, wanted.astype(np.float16))


@pytest.mark.parametrize("mode", ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"])
def test_gelu_is_that_of_coremltools(mode: str, tmp_path: Path) -> None:
    x = np.concatenate([np.linspace(-8, 8, 999), [0, -0.0, 40, -40]]).astype(np.float32)
    path = hand_written(tmp_path / "gelu.mlpackage", lambda x: mb.gelu(x=x, mode=mode), len(x))
    exact = x.astype(np.float64)
    formulas: dict[str, Callable[[], NDArray[np.float64]]] = {
        "EXACT": lambda: 0.5 * exact * (1 + np.array([math.erf(each / math.sqrt(2)) for each in exact])),
        "TANH_APPROXIMATION": lambda: torch.nn.functional.gelu(torch.tensor(exact), approximate="tanh").numpy(),
        "SIGMOID_APPROXIMATION": lambda: exact / (1 + np.exp(-1.702 * exact)),
    }
    np.testing.assert_allclose(evaluated(path, x), formulas[mode](), rtol=2e-6, atol=5e-7)


def test_silu_is_that_of_pytorch(tmp_path: Path) -> None:
    x = np.linspace(-90, 90, 999, dtype=np.float32)
    path = hand_written(tmp_path / "silu.mlpackage", lambda x: mb.silu(x=x), len(x))
    np.testing.assert_allclose(evaluated(path, x), torch.nn.functional.silu(torch.tensor(x)), rtol=1e-6, atol=1e-30)


def test_int8_is_rounded_to_nearest_even_and_saturates(tmp_path: Path) -> None:
    """By hand: half steps, both ends, and what lies beyond them."""

    def body(x: Any) -> Any:
        return mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32(0.5), output_dtype="int8"), scale=np.float32(0.5)
        )

    values = np.array([0.25, 0.75, -0.75, 63.5, 64, -64, 1000, -1000], np.float32)
    found = evaluated(hand_written(tmp_path / "pair.mlpackage", body, 8), values)
    np.testing.assert_array_equal(found, np.array([0, 1, -1, 63.5, 63.5, -64, 63.5, -64], np.float32))


def test_int8_in_fp16_is_divided_in_fp32(tmp_path: Path) -> None:
    """A quotient in FP16 would be rounded twice, and some numbers would become the other neighbor."""
    step = np.float16(0.001)

    def body(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        whole = mb.quantize(input=half, scale=step, output_dtype="int8")
        return mb.cast(x=mb.dequantize(input=whole, scale=step), dtype="fp32")

    values = (np.linspace(-0.13, 0.13, 4001)).astype(np.float16)
    exact = values.astype(np.float64) / np.float64(step)
    wanted = np.clip(np.rint(exact), -128, 127) * np.float64(step)
    found = evaluated(hand_written(tmp_path / "half.mlpackage", body, 4001), values.astype(np.float32))
    np.testing.assert_array_equal(found, wanted.astype(np.float16).astype(np.float32))


def test_a_pair_for_each_channel_and_a_zero_point(tmp_path: Path) -> None:
    scale, zero = np.array([1, 0.5], np.float32), np.array([3, 128], np.uint8)

    def body(x: Any) -> Any:
        whole = mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="uint8")
        return mb.dequantize(input=whole, scale=scale, zero_point=zero, axis=1)

    found = evaluated(
        hand_written(tmp_path / "axis.mlpackage", body, 2, 2), np.array([[-5, 0.6], [7.2, -70]], np.float32)
    )
    np.testing.assert_array_equal(found, np.array([[-3, 0.5], [7, -64]], np.float32))


def test_compressed_weights_are_unpacked(tmp_path: Path) -> None:
    stored, scale = np.array([[1, -2, 3], [127, 0, -127]], np.int8), np.array([0.5, 2], np.float32)
    half = np.array([0.1, 70], np.float16)

    def body(x: Any) -> Any:
        weight = mb.constexpr_affine_dequantize(quantized_data=stored, zero_point=np.int8(0), scale=scale, axis=0)
        return mb.add(x=mb.linear(x=x, weight=weight), y=mb.constexpr_cast(source_val=half, output_dtype="fp32"))

    path = hand_written(tmp_path / "stored.mlpackage", body, 1, 3)
    evaluator = Evaluator(path, read_spec(path))
    x = np.array([[1, 2, 4]], np.float32)
    for _ in range(2):  # what is unpacked is still there for the next run
        (found,) = evaluator.run({"x": x}).values()
        np.testing.assert_array_equal(found, x @ (stored * scale[:, None]).T + half.astype(np.float32))


def test_rounding_to_fp16_is_that_of_numpy_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    anything = anything[~np.isnan(anything)]
    small = rng.uniform(-1, 1, 200_000).astype(np.float32) * np.float32(2.0**-13)
    ties = (np.arange(-5000, 5000) * 2.0**-25).astype(np.float32)
    numbers = np.concatenate([anything, small, ties])
    with np.errstate(all="ignore"):
        found, wanted = coreml_evaluator._half(numbers), numbers.astype(np.float16)
    np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(coreml_evaluator._wide(halves), halves.astype(np.float32))


def test_threads_get_their_own_answers() -> None:
    path, _ = converted("encode")
    evaluator = Evaluator(path, read_spec(path))
    feeds = [random_images(1 + seed % 3, seed).float().numpy() for seed in range(6)]
    alone = [evaluator.run({"images": feed})["features"] for feed in feeds]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda feed: evaluator.run({"images": feed})["features"], feeds))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_leaves_no_values_behind() -> None:
    path, _ = converted("encode")
    evaluator = Evaluator(path, read_spec(path))
    evaluator.run({"images": random_images(1).float().numpy()})
    assert all(variable.val is None for operation, _ in evaluator._steps for variable in operation.outputs)

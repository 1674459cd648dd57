"""The fused kernel, as far as a machine without a GPU can go: Triton's interpreter, and its compiler."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from vqrae.model import search
from vqrae.model.search import nearest_codes, search_kind

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: vqrae[triton], Linux")

INTERPRETED = """
import json, torch
from vqrae.model.fused_search import fused_nearest_codes
from vqrae.model.search import disagreement
from vqrae.model.search import chunked_nearest_codes

def vectors(rows, width, seed, offset):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + offset

report = []
for rows, count, width, programs, offset in CASES:
    features, codes = vectors(rows, width, 0, offset), vectors(count, width, 1, offset)
    fused = fused_nearest_codes(features, codes, programs=programs)
    found = disagreement(features, codes, fused, chunked_nearest_codes(features, codes))
    report.append([str(fused.dtype), list(fused.shape), len(found.rows_D), found.explained])
repeated = vectors(100, 6, 2, 0).repeat(5, 1)
strided = vectors(6, 100, 3, 0).T
ties = [fused_nearest_codes(repeated[:100], repeated, programs=programs).tolist() for programs in (1, 9)]
print(json.dumps([report, ties, fused_nearest_codes(strided, strided, programs=4).tolist()]))
"""
CASES = [  # rows, codes, width, programs, offset
    (70, 300, 24, 1, 0.0),  # no count is a multiple of a tile
    (70, 300, 24, 100, 0.0),  # more programs than tiles
    (128, 1024, 48, 8, 0.0),  # all are multiples
    (1, 2, 1, 1, 0.0),
    (130, 257, 33, 4, 100.0),  # scores cancel, so that float32 decides some rows
    (0, 5, 3, 2, 0.0),
]


@needs_triton
def test_the_interpreted_kernel_equals_the_chunked_search(tmp_path: Path) -> None:
    """In a process of its own: Triton reads at import whether it is to interpret."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    program = INTERPRETED.replace("CASES", repr(CASES))
    command = [sys.executable, "-W", "error", "-c", program]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    report, ties, strided = json.loads(printed.stdout)
    for (rows, *_, offset), (dtype, shape, differing, explained) in zip(CASES, report, strict=True):
        assert (dtype, shape) == ("torch.int64", [rows])
        assert explained
        assert offset or not differing
    assert ties == [list(range(100))] * 2, "the lowest index among equals, in one program and across several"
    assert strided == list(range(100)), "memory order does not matter"


@needs_triton
@pytest.mark.parametrize("capability", [80, 90, 100, 120])
def test_the_kernel_compiles_without_tensor_cores_and_without_spilling(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = _compiled(capability, width=1536, multiple=16)
    ptx = kernel.asm["ptx"]
    assert f".target sm_{capability}" in ptx
    assert "fma.rn.f32" in ptx
    assert not re.search(r"\b(w?g?mma|tcgen05)\b", ptx), "a tensor core would round the products to TF32"
    assert kernel.asm["cubin"].startswith(b"\x7fELF")
    assert _stack_bytes(kernel.asm["cubin"], tmp_path) == 0, "registers are spilled"


@needs_triton
def test_the_kernel_compiles_for_sizes_that_no_tile_divides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert _compiled(90, width=33, multiple=1).asm["cubin"].startswith(b"\x7fELF")


def _compiled(capability: int, *, width: int, multiple: int) -> Any:
    """The kernel for codes of a width, where addresses and counts are known to be multiples of something."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vqrae.model import fused_search

    pointers = dict.fromkeys(("features_ptr", "codes_ptr", "half_norms_ptr", "scores_ptr"), "*fp32")
    numbers = dict.fromkeys(("row_count", "code_count", "codes_per_split"), "i32")
    tile = {name: getattr(fused_search, name) for name in ("BLOCK_M", "BLOCK_K", "BLOCK_E")}
    constants = {"WIDTH": width, **tile}
    signature = {**pointers, "indices_ptr": "*i32", **numbers, **dict.fromkeys(constants, "constexpr")}
    arguments = len(signature) - len(constants)
    known = {(place,): [["tt.divisibility", multiple]] for place in range(arguments) if multiple > 1}
    source = ASTSource(fused_search._best_of_split, signature, constants, known)
    options = {"num_warps": fused_search.WARPS, "num_stages": fused_search.STAGES}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _stack_bytes(cubin: bytes, folder: Path) -> int:
    """Local memory that a thread needs, as NVIDIA's own tool reads it from the binary."""
    import triton

    (folder / "kernel.cubin").write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(folder / "kernel.cubin")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", printed)
    assert found, printed
    return int(found[1])


def test_the_cpu_searches_in_chunks_and_needs_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails now
    monkeypatch.delitem(sys.modules, "vqrae.model.fused_search", raising=False)
    codes = torch.eye(3)
    assert nearest_codes(codes, codes).tolist() == [0, 1, 2]
    assert search_kind(torch.device("cpu")) == "chunked"


@pytest.mark.parametrize(
    ("capability", "triton", "dtype", "kind"),
    [
        ((8, 0), True, torch.float32, "fused"),
        ((12, 0), True, torch.float32, "fused"),
        ((7, 5), True, torch.float32, "chunked"),
        ((9, 0), False, torch.float32, "chunked"),
        ((9, 0), True, torch.float64, "chunked"),
    ],
)
def test_a_gpu_takes_the_fused_search_where_it_can(
    capability: tuple[int, int], triton: bool, dtype: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides, with the two facts that this machine lacks put in."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(search, "_fits_fused", search._fits_fused.__wrapped__)
    monkeypatch.setattr(search, "find_spec", lambda name: object() if triton else None)
    assert search_kind(torch.device("cuda", 0), dtype) == kind

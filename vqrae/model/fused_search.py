"""The nearest-code search as one GPU kernel: scores are made, compared and forgotten inside the processor.

Importing this needs Triton (`pip install 'vqrae[triton]'`). The kernel was run in Triton's interpreter and compiled for
compute capability 8.0, 9.0, 10.0 and 12.0; it was not executed on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_M, BLOCK_K, BLOCK_E = 64, 128, 16
"""Rows, codes and components in one tile."""
WARPS, STAGES = 8, 3
"""Warps of 32 threads for one tile, and tiles on their way from memory at a time."""
PROGRAMS_PER_PROCESSOR = 2
"""Programs that are started for each multiprocessor where there are too few rows to have as many."""


# Triton reads annotations: it takes none but constexpr here.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]  # Triton need not be there where types are checked
def _best_of_split(  # type: ignore[no-untyped-def]
    features_ptr,
    codes_ptr,
    half_norms_ptr,
    scores_ptr,
    indices_ptr,
    row_count,
    code_count,
    codes_per_split,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program: the best code of one range of codes, for one tile of rows."""
    split = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < row_count
    row_starts = rows.to(tl.int64)[:, None] * WIDTH
    first = split * codes_per_split
    last = tl.minimum(first + codes_per_split, code_count)
    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    index = tl.full((BLOCK_M,), 0, tl.int32) + first
    for start in range(first, last, BLOCK_K):
        ids = start + tl.arange(0, BLOCK_K)
        known = ids < last
        code_starts = ids.to(tl.int64)[None, :] * WIDTH
        products = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        for offset in range(0, WIDTH, BLOCK_E):
            parts = offset + tl.arange(0, BLOCK_E)
            real = parts < WIDTH
            z = tl.load(features_ptr + row_starts + parts[None, :], inside[:, None] & real[None, :], 0.0)
            c = tl.load(codes_ptr + code_starts + parts[:, None], real[:, None] & known[None, :], 0.0)
            products = tl.dot(z, c, products, input_precision="ieee")
        half_norms = tl.load(half_norms_ptr + ids, known, float("inf"))  # so that no code past the last one is chosen
        tile_best, tile_index = tl.max(products - half_norms[None, :], 1, return_indices=True)
        better = tile_best > best  # strictly: among equals the one that came first stays
        best = tl.where(better, tile_best, best)
        index = tl.where(better, start + tile_index, index)
    place = split.to(tl.int64) * row_count + rows
    tl.store(scores_ptr + place, best, inside)
    tl.store(indices_ptr + place, index, inside)


@torch.no_grad()
def fused_nearest_codes(features_ME: Tensor, codes_KE: Tensor, *, programs: int | None = None) -> Tensor:
    """Index of the code with the least Euclidean distance to each feature; the lowest index among equals.

    Scores are z·c − ½‖c‖² in float32 throughout (Triton's `ieee`, no TF32). Where rows are few, the codes are split
    among more programs, whose winners are compared afterwards: that table is all that is held beside the result.

    Args:
        features_ME: (M, E) float32, finite.
        codes_KE: (K, E) float32, finite, on the same device.
        programs: programs to start at least, where there are codes enough; if not given, twice as many as the GPU has
            multiprocessors.

    Returns:
        int64 (M,).
    """
    if programs is None:
        programs = PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(features_ME.device).multi_processor_count
    row_count, width = features_ME.shape
    row_tiles, code_tiles = triton.cdiv(row_count, BLOCK_M), triton.cdiv(len(codes_KE), BLOCK_K)
    if row_tiles == 0:
        return torch.empty(0, dtype=torch.int64, device=features_ME.device)
    tiles_per_split = triton.cdiv(code_tiles, min(code_tiles, triton.cdiv(programs, row_tiles)))
    splits = triton.cdiv(code_tiles, tiles_per_split)
    scores_SM = features_ME.new_empty(splits, row_count)
    indices_SM = torch.empty_like(scores_SM, dtype=torch.int32)
    _best_of_split[(row_tiles, splits)](
        features_ME.contiguous(),
        codes_KE.contiguous(),
        codes_KE.square().sum(1) / 2,
        scores_SM,
        indices_SM,
        row_count,
        len(codes_KE),
        tiles_per_split * BLOCK_K,
        WIDTH=width,
        BLOCK_M=BLOCK_M,
        BLOCK_K=BLOCK_K,
        BLOCK_E=BLOCK_E,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    winners_1M = scores_SM.argmax(0, keepdim=True)  # the first among equals, which has the lower indices
    return indices_SM.gather(0, winners_1M)[0].long()

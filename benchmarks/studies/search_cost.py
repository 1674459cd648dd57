"""What the nearest-code search costs inside `encode`: the whole graph against its features-only part, interleaved.

vqrae export base --split -o bundles && python -m vqrae.benchmarks.studies.search_cost bundles/vqrae-base-onnx-fp32
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vqrae.benchmarks.candidates.candidate import sample_input
from vqrae.runtimes.errors import BundleError, run_as_program
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.tokenizer import load


def search_cost(bundle: Path, *, threads: int | None, rounds: int) -> dict[str, float]:
    """Latency of `encode` over latency of `encoder` at batch 1, the median over rounds with its 95 % interval.

    Raises:
        BundleError: the bundle was exported without `--split`.
    """
    with load(bundle, threads=threads) as tokenizer:
        if "encoder" not in tokenizer.manifest.graphs:
            raise BundleError(str(bundle), got="no graph encoder", expected="one", remedy="export with --split")
        images = sample_input(
            "encode", 1, tokenizer.image_size, grid=tokenizer.grid, codebook_size=tokenizer.codebook_size
        )
        sessions = {name: tokenizer.session(name) for name in ("encode", "encoder")}
        calls = {name: lambda session=session: session.run({"images": images}) for name, session in sessions.items()}
        seconds = interleave(calls, rounds=rounds, warmup=3)
    ratio = speedup(seconds["encode"], seconds["encoder"])
    return {
        "encode_p50_ms": latency(seconds["encode"]).p50_ms,
        "encoder_p50_ms": latency(seconds["encoder"]).p50_ms,
        "ratio": ratio.speedup,
        "ratio_low": ratio.speedup_low,
        "ratio_high": ratio.speedup_high,
    }


def main() -> None:
    """Command line; prints one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.search_cost", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="exported with --split")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    result = search_cost(options.bundle, threads=options.threads, rounds=options.rounds)
    print(json.dumps({"bundle": str(options.bundle), "machine": str(this_machine()), **result}, indent=2))


if __name__ == "__main__":
    run_as_program(main)

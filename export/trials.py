"""Trials on the real runtime: a graph with some layers at INT8, against FP32 and the PyTorch reference."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from vqrae.calibration.plan import PrecisionPlan
from vqrae.calibration.trials import GraphName, Trial
from vqrae.export.int8_onnx import Int8Onnx
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.evidence import ParityFigures
from vqrae.runtimes.latency import interleave, latency, speedup
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.parity import Reference, Sample, measure
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import Session

BATCH = 8
ROUNDS = 15
WARMUP = 2


class GraphTrials(Closing):
    """Makes trials of one graph; the other one stays in FP32."""

    def __init__(
        self, calibrated: Int8Onnx, plan: PrecisionPlan, graph: GraphName, runtime: str, reference: Reference
    ) -> None:
        """Open the FP32 graphs.

        Args:
            calibrated: makes the INT8 graphs.
            plan: how INT8 is made; its layers are what a trial decides.
            graph: `encode` or `decode`.
            runtime: one that loads ONNX.
            reference: of the images to measure on, none of which was calibrated on.
        """
        self._calibrated = calibrated
        self._plan = plan
        self._graph = graph
        self._runtime = RuntimeInfo(name=runtime, built_with={})
        self._reference = reference
        self._temporary = TemporaryDirectory(prefix="vqrae-trials-")
        self._float = {name: self._open(*calibrated.float_graph(name)) for name in ("encode", "decode")}

    def make(self, layers: Collection[str]) -> Trial:
        """Try a set of layers."""
        names = self._plan.layers
        plan = self._plan.with_layers({name: "int8" if name in layers else "float" for name in names})
        path = Path(self._temporary.name) / "trial.onnx"
        return self.measured(path, self._calibrated.write(self._graph, plan, "asymmetric", path), layers)

    def measured(self, path: Path, spec: GraphSpec, layers: Collection[str]) -> Trial:
        """The trial of a graph that was made already, with these layers at INT8."""
        with self._open(path, spec) as session:
            figures = self._figures(session)
            seconds = interleave(
                {
                    "float": partial(self._float[self._graph].run, self._feeds(slice(0, 1))),
                    "int8": partial(session.run, self._feeds(slice(0, 1))),
                },
                rounds=ROUNDS,
                warmup=WARMUP,
            )
        faster = speedup(seconds["float"], seconds["int8"])
        psnr = _told(figures.decode_psnr_db)
        damage = _told(figures.excess_distortion) if self._graph == "encode" else 10 ** (-psnr / 10)
        return Trial(
            graph=self._graph,
            int8=tuple(sorted(layers)),
            damage=damage,
            token_agreement=_told(figures.token_agreement),
            source_psnr_drop_db=_told(figures.source_psnr_drop_db),
            decode_psnr_db=psnr,
            relative_time=1 / faster.speedup,
            relative_time_low=1 / faster.speedup_high,
            relative_time_high=1 / faster.speedup_low,
            float_ms=latency(seconds["float"]).p50_ms,
        )

    def close(self) -> None:
        """Close the FP32 graphs and delete the last trial."""
        for session in self._float.values():
            session.close()
        self._temporary.cleanup()

    def _open(self, path: Path, spec: GraphSpec) -> Session:
        written, named = Sealed.in_place(path.parent), spec.model_copy(update={"file": path.name})
        return session_class(self._runtime.name).open(written, named, LoadOptions(), self._runtime)

    def _feeds(self, rows: slice) -> dict[str, NDArray[np.uint8 | np.int32]]:
        values = self._reference.images if self._graph == "encode" else self._reference.indices
        return {"images" if self._graph == "encode" else "indices": np.ascontiguousarray(values[rows])}

    def _figures(self, session: Session) -> ParityFigures:
        reference = self._reference
        parts = [
            session.run(self._feeds(slice(start, start + BATCH))) for start in range(0, len(reference.images), BATCH)
        ]
        made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if self._graph == "decode":
            decoded = made["images"]
            return measure(
                reference,
                Sample(indices=reference.indices, features=reference.features, decoded=decoded, reconstructed=decoded),
            )
        return measure(
            reference,
            Sample(
                indices=made["indices"],
                features=made.get("features"),
                decoded=reference.decoded,
                reconstructed=self._decoded(made["indices"]),
            ),
        )

    def _decoded(self, indices: NDArray[np.int32]) -> NDArray[np.uint8]:
        session = self._float["decode"]
        chunks = (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))
        return np.concatenate([session.run({"indices": chunk})["images"] for chunk in chunks])


def _told(figure: float | None) -> float:
    """A figure of a tokenizer with both graphs, which are measured together."""
    if figure is None:
        raise UsageError("trial", got="a tokenizer without one of its graphs", expected="both encode and decode")
    return figure

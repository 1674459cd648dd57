"""The PyTorch model on another device than the CPU, eager or compiled, in FP32 or FP16: from arrays to arrays."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from vqrae.benchmarks.candidates import GRAPHS, Candidate, Graph, Subject, fidelity_columns, sample_input
from vqrae.benchmarks.compiled import quiet_compiler
from vqrae.benchmarks.fidelity import Arrays, measured_fidelity
from vqrae.checkpoint import open_checkpoint
from vqrae.model import VQRAE
from vqrae.resize import resized
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import ParityFigures

FloatName = Literal["fp32", "fp16"]


class DeviceCandidate(Candidate):
    """A checkpoint folder, or a preset's name for one with random weights.

    Copies to the device and back are part of a call, as they are of a bundle's. FP16 is PyTorch's automatic casting.
    """

    def __init__(
        self,
        source: Path | str,
        device: str,
        *,
        precision: FloatName = "fp32",
        compiled: bool = False,
        threads: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Load the model onto the device; it is compiled when its graphs are called for.

        Raises:
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
        """
        self.threads = threads
        self._source, self._size = str(source), size
        self._device = torch.device(device)
        self._precision, self._is_compiled = precision, compiled
        self._model = self._opened().to(self._device)
        self._batch = 1
        self._figures: ParityFigures | None = None

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._model.size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return True

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """As documented by `Candidate`; runs once, which compiles what is to be compiled.

        Raises:
            RuntimeUnavailable: it cannot run there, for example for want of memory or a compiler.
        """
        model = self._model
        codebook_size = model.config.quantizer.codebook_size
        values = sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size)
        run = self._on_arrays(graph)
        try:
            with quiet_compiler():
                run(values)
        except RuntimeError as error:  # Dynamo's, Inductor's and CUDA's own are RuntimeErrors
            raise RuntimeUnavailable(f"PyTorch on {self._device}", got=f"a failed run ({error})") from error
        self._batch = batch
        return lambda: run(values)

    def subject(self, graph: Graph) -> Subject:
        """As documented by `Candidate`; but for eager FP32 it first compares itself with the model on the CPU."""
        is_reference = not self._is_compiled and self._precision == "fp32"
        if self._figures is None and not is_reference:
            encode, decode = (self._on_arrays(name) for name in GRAPHS)
            with quiet_compiler():
                self._figures = measured_fidelity(self._opened(), encode, decode, batch=self._batch)
        return Subject(
            kind="compiled" if self._is_compiled else "reference",
            bundle=self._model.config.name,
            runtime="pytorch",
            runtime_version=torch.__version__,
            precision=self._precision,
            int8_share=None,
            device=self._device_name(),
            size_mb=sum(tensor.nbytes for tensor in self._model.state_dict().values()) / 1e6,
            **fidelity_columns(self._figures),
            gate="reference" if is_reference else "unjudged",
        )

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_model"):
            del self._model
        if self._is_compiled:
            torch.compiler.reset()

    def _opened(self) -> VQRAE:
        model = open_checkpoint(self._source).model
        return resized(model, self._size or model.size)

    def _device_name(self) -> str:
        """Such as `cuda (NVIDIA H100 80GB HBM3)`."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        return f"{self._device} ({name})" if name else str(self._device)

    def _on_arrays(self, graph: Graph) -> Callable[[NDArray[Any]], Arrays]:
        model, device = self._model, self._device
        function = unwrap(VQRAE.decode_indices if graph == "decode" else VQRAE.encode_images)
        with quiet_compiler():
            written: Callable[..., Any] = torch.compile(function, dynamic=False) if self._is_compiled else function
        with torch.no_grad():
            codes = () if graph == "decode" else (model.quantizer.codes(),)  # once, as for many images
        casting = torch.autocast(device.type, torch.float16, enabled=self._precision == "fp16")

        def run(values: NDArray[Any]) -> Arrays:
            with torch.no_grad(), casting:
                found = written(model, torch.from_numpy(values).to(device), *codes)
            parts = found if isinstance(found, tuple) else (found,)
            # What is cast to FP16 comes back as float32, as every bundle gives it.
            return tuple(
                part.float().cpu().numpy() if part.is_floating_point() else part.cpu().numpy() for part in parts
            )

        return run

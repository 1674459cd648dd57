"""The PyTorch model as candidates: eager, the reference of the others; compiled by Inductor; on another device."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vqrae.benchmarks.candidates.candidate import (
    GRAPHS,
    Candidate,
    Graph,
    Subject,
    fidelity_columns,
    sample_input,
)
from vqrae.benchmarks.candidates.fidelity import Arrays, measured_fidelity
from vqrae.benchmarks.candidates.work import Work
from vqrae.checkpoint import from_pretrained, open_checkpoint, save_pretrained
from vqrae.model import VQRAE
from vqrae.model.vqrae import resized
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.manifest import ParityFigures


class PyTorchCandidate(Candidate):
    """A checkpoint folder, or a preset's name for one with random weights."""

    def __init__(self, source: Path | str, *, threads: int, size: tuple[int, int] | None = None) -> None:
        """Load the model. The number of threads is PyTorch's own and holds for the whole process.

        `size` is the image size (H, W); None is the trained one.

        Raises:
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
        """
        self.threads = threads
        torch.set_num_threads(threads)
        self._folder = Path(source) if Path(source).is_dir() else None
        self._saved: TemporaryDirectory[str] | None = None
        self._source = str(source)
        model = from_pretrained(self._folder) if self._folder else open_checkpoint(self._source).model
        self._model: VQRAE = resized(model, size or model.size)

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._model.size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return True

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:  # noqa: D102 - documented by Candidate
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = torch.from_numpy(sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size))
        if graph == "decode":
            return lambda: model.decode_indices(values)
        with torch.inference_mode():
            codes = model.quantizer.codes()  # once, as anyone would who encodes more than one image
        return lambda: model.encode_images(values, codes)

    def subject(self, graph: Graph) -> Subject:  # noqa: D102 - documented by Candidate
        return Subject(
            kind="reference",
            bundle=self._model.config.name,
            runtime="pytorch",
            runtime_version=torch.__version__,
            precision="fp32",
            int8_share=None,
            device="cpu",
            size_mb=self._size_bytes() / 1e6,
            weights_mb=(self._module_bytes(graph) + self._model.quantizer.codes().nbytes) / 1e6,
            token_agreement=None,
            excess_distortion=None,
            decode_psnr_db=None,
            gate="reference",
        )

    def work(self, graph: Graph, batch: int) -> Work | None:
        """What PyTorch's own counter finds in one call; each weight of the graph's modules is read once."""
        call = PyTorchCandidate.call(self, graph, batch)
        # The counter does not know the CPU's fused attention; its two products one by one it does.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            results = call()
        model, moved = self._model, self._module_bytes(graph)
        if graph == "encode":
            moved += model.quantizer.codes().nbytes
        values = sample_input(graph, batch, model.size, grid=model.grid, codebook_size=2)
        given = results if isinstance(results, tuple) else (results,)
        moved += values.nbytes + sum(result.nbytes for result in given if isinstance(result, torch.Tensor))
        return Work(float_macs=counter.get_total_flops() // 2, int8_macs=0, bytes_moved=moved)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:
        """As documented by `Candidate`; a preset's random weights are first saved, for a fresh process to load."""
        height, width = map(str, self._model.size)
        return (str(self._folder or self._saved_folder()), "--torch", "--size", height, width)

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_model"):
            del self._model
        if self._saved is not None:
            self._saved.cleanup()

    def _saved_folder(self) -> Path:
        if self._saved is None:
            self._saved = TemporaryDirectory(prefix="vqrae-checkpoint-")
            unresized = open_checkpoint(self._source).model
            save_pretrained(unresized, Path(self._saved.name) / "model")
        return Path(self._saved.name) / "model"

    def _module_bytes(self, graph: Graph) -> int:
        """Of the weights of the graph's own modules: the model holds the other graph's too."""
        model = self._model
        used = (model.encoder, model.in_projection) if graph == "encode" else (model.out_projection, model.decoder)
        return sum(weight.nbytes for module in used for weight in module.parameters())

    def _size_bytes(self) -> int:
        if self._folder is None:
            return sum(tensor.nbytes for tensor in self._model.state_dict().values())
        return sum(file.stat().st_size for file in self._folder.iterdir() if file.suffix in (".json", ".safetensors"))


COMPILERS = ("g++", "clang++", "c++")


class CompiledCandidate(PyTorchCandidate):
    """A checkpoint folder or a preset's name, as for `PyTorchCandidate`."""

    def __init__(self, source: Path | str, *, threads: int, size: tuple[int, int] | None = None) -> None:
        """Load the model; it is compiled when its graphs are called for.

        Raises:
            RuntimeUnavailable: there is no C++ compiler.
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
        """
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
            remedy = "install one, or set CXX"
            raise RuntimeUnavailable("torch.compile", got="no C++ compiler", expected="g++ or clang++", remedy=remedy)
        super().__init__(source, threads=threads, size=size)
        self._batch = 1
        self._figures: ParityFigures | None = None

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """Compile the graph for this batch size, which may take a minute.

        Raises:
            RuntimeUnavailable: Inductor cannot compile it.
        """
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = torch.from_numpy(sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size))
        run = self._compiled(graph)
        _first_run(run, values)
        self._batch = batch
        return lambda: run(values)

    def subject(self, graph: Graph) -> Subject:
        """As documented by `Candidate`; the first time it compares what was compiled with the model as it is."""
        if self._figures is None:
            encode, decode = (self._on_arrays(graph) for graph in GRAPHS)
            self._figures = measured_fidelity(self._model, encode, decode, batch=self._batch)
        columns = fidelity_columns(self._figures)
        return replace(super().subject(graph), kind="compiled", gate="unjudged", **columns)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:  # noqa: D102 - documented by Candidate
        return None  # how long a fresh process compiles depends on what its cache holds

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        torch.compiler.reset()
        super().close()

    def _compiled(self, graph: Graph) -> Callable[[torch.Tensor], Any]:
        """The graph, which is compiled for each shape of its input when it first comes."""
        model = self._model
        written = unwrap(VQRAE.decode_indices if graph == "decode" else VQRAE.encode_images)
        with quiet_compiler():
            compiled: Callable[..., Any] = torch.compile(written, dynamic=False)  # imports Inductor
        codes = () if graph == "decode" else (model.quantizer.codes().detach(),)

        def run(values: torch.Tensor) -> Any:
            with torch.no_grad():  # Dynamo fails in the inference mode that the model's own methods are in
                return compiled(model, values, *codes)

        return run

    def _on_arrays(self, graph: Graph) -> Callable[[NDArray[Any]], Arrays]:
        run = self._compiled(graph)

        def run_on_arrays(values: NDArray[Any]) -> Arrays:
            found = _first_run(run, torch.from_numpy(values))
            return tuple(part.numpy() for part in (found if isinstance(found, tuple) else (found,)))

        return run_on_arrays


def _first_run(run: Callable[[torch.Tensor], Any], values: torch.Tensor) -> Any:
    """What it gives, where it may have to be compiled.

    Raises:
        RuntimeUnavailable: Inductor cannot compile it.
    """
    with quiet_compiler():
        try:
            return run(values)
        except RuntimeError as error:  # Dynamo's and Inductor's own are RuntimeErrors
            raise RuntimeUnavailable("torch.compile", got=f"a failed compilation ({error})") from error


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Without PyTorch's notes about its own deprecated calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is deprecated", category=DeprecationWarning)
        yield


FloatName = Literal["fp32", "fp16"]
HALF: dict[FloatName, bool] = {"fp32": False, "fp16": True}
"""Whether PyTorch casts to half precision."""


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
        is_reference = not self._is_compiled and not HALF[self._precision]
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
        casting = torch.autocast(device.type, torch.float16, enabled=HALF[self._precision])

        def run(values: NDArray[Any]) -> Arrays:
            with torch.no_grad(), casting:
                found = written(model, torch.from_numpy(values).to(device), *codes)
            parts = found if isinstance(found, tuple) else (found,)
            # What is cast to FP16 comes back as float32, as every bundle gives it.
            return tuple(
                part.float().cpu().numpy() if part.is_floating_point() else part.cpu().numpy() for part in parts
            )

        return run

"""The PyTorch model as a candidate: eager, the reference of the others, or compiled; on the CPU or another device."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vqrae.benchmarks.candidates.candidate import GRAPHS, Candidate, Graph, Subject, sample_input
from vqrae.benchmarks.candidates.fidelity import Arrays, measured_fidelity
from vqrae.benchmarks.candidates.work import Work
from vqrae.checkpoint import from_pretrained, open_checkpoint, save_pretrained
from vqrae.model import VQRAE
from vqrae.model.vqrae import resized
from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.evidence import ParityFigures

COMPILERS = ("g++", "clang++", "c++")
FloatName = Literal["fp32", "fp16"]
HALF: dict[FloatName, bool] = {"fp32": False, "fp16": True}
"""Whether PyTorch casts to half precision."""


class PyTorchCandidate(Candidate):
    """A checkpoint folder, or a preset's name for one with random weights; from arrays to arrays.

    Copies to another device and back are part of a call, as they are of a bundle's; on the CPU there are none. FP16 is
    PyTorch's automatic casting. Eager FP32 is the reference; the others are compared with the model on the CPU.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        threads: int,
        size: tuple[int, int] | None = None,
        device: str = "cpu",
        precision: FloatName = "fp32",
        compiled: bool = False,
    ) -> None:
        """Load the model; it is compiled when its graphs are called for.

        Args:
            source: see the class.
            threads: on the CPU; PyTorch's own number, which holds for the whole process.
            size: the image size (H, W); None is the trained one.
            device: as PyTorch calls it.
            precision: of the arithmetic.
            compiled: by Inductor.

        Raises:
            CheckpointError: the checkpoint is invalid, or there is none and no such preset.
            RuntimeUnavailable: it is to be compiled, and there is no C++ compiler.
        """
        if compiled and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
            remedy = "install one, or set CXX"
            raise RuntimeUnavailable("torch.compile", got="no C++ compiler", expected="g++ or clang++", remedy=remedy)
        torch.set_num_threads(threads)
        self._folder = Path(source) if Path(source).is_dir() else None
        self._saved: TemporaryDirectory[str] | None = None
        self._source, self._size = str(source), size
        self._device, self._precision, self._is_compiled = torch.device(device), precision, compiled
        self._model = self._opened().to(self._device)
        self._batch = 1
        self._figures: ParityFigures | None = None

    @property
    def image_size(self) -> tuple[int, int]:  # noqa: D102 - documented by Candidate
        return self._model.size

    def supports(self, graph: Graph, batch: int) -> bool:  # noqa: D102 - documented by Candidate
        return True

    def call(self, graph: Graph, batch: int) -> Callable[[], object]:
        """As documented by `Candidate`; what is to be compiled is, for this batch size, which may take a minute.

        Raises:
            RuntimeUnavailable: it cannot run there, for example for want of memory or a compiler.
        """
        model, codebook_size = self._model, self._model.config.quantizer.codebook_size
        values = sample_input(graph, batch, model.size, grid=model.grid, codebook_size=codebook_size)
        run = self._function(graph)
        if self._is_compiled or self._device.type != "cpu":
            self._first_run(run, values)
        self._batch = batch
        return lambda: run(values)

    def subject(self, graph: Graph) -> Subject:
        """As documented by `Candidate`; but for the reference it is compared with the model the first time."""
        is_reference = not self._is_compiled and not HALF[self._precision]
        if self._figures is None and not is_reference:
            encode, decode = (self._function(name) for name in GRAPHS)
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
            size_mb=self._size_bytes() / 1e6,
            weights_mb=(self._module_bytes(graph) + self._model.quantizer.codes().nbytes) / 1e6,
            figures=self._figures,
            gate="reference" if is_reference else "unjudged",
        )

    def work(self, graph: Graph, batch: int) -> Work | None:
        """What PyTorch's own counter finds in one eager call; each weight of the graph's modules is read once."""
        model = self._model
        values = sample_input(graph, batch, model.size, grid=model.grid, codebook_size=2)
        run = self._eager(graph)
        # The counter does not know the CPU's fused attention; its two products one by one it does.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            results = run(torch.from_numpy(values).to(self._device))
        moved = self._module_bytes(graph) + values.nbytes + sum(result.nbytes for result in results)
        if graph == "encode":
            moved += self._model.quantizer.codes().nbytes  # the effective codes are as large
        return Work(float_macs=counter.get_total_flops() // 2, int8_macs=0, bytes_moved=moved)

    def launch(self, graph: Graph) -> tuple[str, ...] | None:
        """As documented by `Candidate`; a preset's random weights are first saved, for a fresh process to load.

        None of what is compiled, since that takes what a cache leaves of it, and of other devices.
        """
        if self._is_compiled or self._device.type != "cpu":
            return None
        height, width = map(str, self._model.size)
        return (str(self._folder or self._saved_folder()), "--torch", "--size", height, width)

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_model"):
            del self._model
        if self._is_compiled:
            torch.compiler.reset()
        if self._saved is not None:
            self._saved.cleanup()

    def _opened(self) -> VQRAE:
        model = from_pretrained(self._folder) if self._folder else open_checkpoint(self._source).model
        return resized(model, self._size or model.size)

    def _eager(self, graph: Graph) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
        """The model's own method, from tensors to tensors on its device."""
        model = self._model
        if graph == "decode":
            return lambda values: (model.decode_indices(values),)
        with torch.inference_mode():
            codes = model.quantizer.codes()  # once, as anyone would who encodes more than one image
        return lambda values: model.encode_images(values, codes)

    def _compiled(self, graph: Graph) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
        """The same, compiled for each shape of its input when it first comes."""
        model = self._model
        written = unwrap(VQRAE.decode_indices if graph == "decode" else VQRAE.encode_images)
        with quiet_compiler():
            compiled: Callable[..., Any] = torch.compile(written, dynamic=False)  # imports Inductor
        codes = () if graph == "decode" else (model.quantizer.codes().detach(),)

        def run(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():  # Dynamo fails in the inference mode that the model's own methods are in
                found = compiled(model, values, *codes)
            return found if isinstance(found, tuple) else (found,)

        return run

    def _function(self, graph: Graph) -> Callable[[NDArray[Any]], Arrays]:
        """The graph, from arrays to arrays."""
        run = self._compiled(graph) if self._is_compiled else self._eager(graph)
        device = self._device
        casting = torch.autocast(device.type, torch.float16, enabled=HALF[self._precision])

        def run_on_arrays(values: NDArray[Any]) -> Arrays:
            with casting:
                parts = run(torch.from_numpy(values).to(device))
            # What is cast to FP16 comes back as float32, as every bundle gives it.
            return tuple(
                part.float().cpu().numpy() if part.is_floating_point() else part.cpu().numpy() for part in parts
            )

        return run_on_arrays

    def _first_run(self, run: Callable[[NDArray[Any]], Arrays], values: NDArray[Any]) -> None:
        with quiet_compiler():
            try:
                run(values)
            except RuntimeError as error:  # Dynamo's, Inductor's and CUDA's own are RuntimeErrors
                what = "torch.compile" if self._is_compiled else f"PyTorch on {self._device}"
                failed = "compilation" if self._is_compiled else "run"
                raise RuntimeUnavailable(what, got=f"a failed {failed} ({error})") from error

    def _device_name(self) -> str:
        """Such as `cuda (NVIDIA H100 80GB HBM3)`."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        return f"{self._device} ({name})" if name else str(self._device)

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


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Without PyTorch's notes about its own deprecated calls."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is deprecated", category=DeprecationWarning)
        yield

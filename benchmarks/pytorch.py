"""The PyTorch model as a candidate: eager, FP32, the reference that the others are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vqrae.benchmarks.candidates import Candidate, Graph, Subject, sample_input
from vqrae.benchmarks.work import Work
from vqrae.checkpoint import from_pretrained, open_checkpoint, save_pretrained
from vqrae.model import VQRAE
from vqrae.resize import resized


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
            weights_mb=(self._module_bytes(graph) + self._model.quantizer.codebook.nbytes) / 1e6,
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
            moved += model.quantizer.codebook.nbytes  # the effective codes are as large
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

"""A checkpoint's encoder as a folder that transformers 4 reads, for exporters that refuse transformers 5.

python -m vqrae.benchmarks.studies.peer_encoder base -o runs/peer/encoder
"""

from __future__ import annotations

from pathlib import Path

from vqrae.benchmarks.studies.study import StudyParser
from vqrae.checkpoint import open_checkpoint
from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import UsageError, run_as_program
from vqrae.runtimes.staging import staged_folder
from vqrae.tensor_file import save_tensors

FAMILY = "siglip_vision_model"
PREFIX = "vision_model."
"""What transformers 4 puts before the names of the network's weights, and transformers 5 no longer does."""


def write_peer_encoder(encoder: Encoder, folder: Path, *, overwrite: bool = False) -> None:
    """Write configuration and float32 weights; the folder appears whole or not at all.

    Args:
        encoder: of the family `siglip_vision_model`.
        folder: to be made.
        overwrite: whether a folder that is there is replaced.

    Raises:
        UsageError: another family, or `folder` exists.
        StorageError: the operating system refused to write.
    """
    if encoder.config.family != FAMILY:
        raise UsageError("encoder", got=encoder.config.family, expected=FAMILY)
    state = {PREFIX + name: tensor.float() for name, tensor in encoder.network.state_dict().items()}
    with staged_folder(folder, overwrite=overwrite) as staging:
        encoder.network.config.to_json_file(staging / "config.json", use_diff=False)
        save_tensors(state, staging / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Command line."""
    parser = StudyParser("peer_encoder", __doc__)
    parser.add_checkpoint()
    parser.add_output("folder to be made")
    options = parser.parse_args()
    write_peer_encoder(open_checkpoint(options.checkpoint).model.encoder, options.output)
    print(options.output)


if __name__ == "__main__":
    run_as_program(main)

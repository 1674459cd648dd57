"""`vqrae package`: a bundle as the model repository of a server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, Overwrite


class ModelServer(StrEnum):
    """Servers whose repositories can be written."""

    TRITON = "triton"
    OVMS = "ovms"


def package(
    bundle: BundlePath,
    server: Annotated[ModelServer, typer.Option("--for", help="Triton Inference Server, or OpenVINO Model Server.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model repository to make.")],
    max_batch: Annotated[
        int | None, typer.Option(help="Images that Triton computes together at most; 32 if not given.", min=1)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a BUNDLE as a model repository: encode, decode, and for Triton the ensemble reconstruct."""
    from vqrae.cli.output import console
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.outputs import check_apart
    from vqrae.serving.ovms_repository import write_ovms_repository
    from vqrae.serving.triton_repository import write_triton_repository

    check_apart({"--output": output}, [bundle])
    if server is ModelServer.TRITON:
        write_triton_repository(bundle, output, max_batch=max_batch, overwrite=overwrite)
        start = f"tritonserver --model-repository {output}"
    else:
        if max_batch is not None:
            raise UsageError("--max-batch", got="a number for ovms", expected="none: it makes no batches of its own")
        write_ovms_repository(bundle, output, overwrite=overwrite)
        start = f"ovms --config_path {output}/config.json --port 9000 --rest_port 8000"
    console.print(f"{output}: start it with `{start}`", soft_wrap=True, highlight=False)

"""Core ML packages to test with: of the tiny models, each converted once, and of programs written by hand."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tiny_models import deployable, random_images, tiny_model
from torch import nn
from torch.export import ExportedProgram

from vqrae.export.batch import Batch
from vqrae.export.build import BundleBuilder, check_target
from vqrae.export.deployable import Deployable
from vqrae.export.form import FORMS
from vqrae.export.formats import Target, target
from vqrae.export.formats.coreml import CoreMLOptions
from vqrae.export.formats.coreml.package import write_package
from vqrae.export.job import ExportJob
from vqrae.export.pt2 import program_from_plan, write_program
from vqrae.export.reference import reference_from_model
from vqrae.export.tokenizers.vqrae import VqraeReference
from vqrae.model import VQRAE
from vqrae.runtimes.backends.coreml import CoreMLSession
from vqrae.runtimes.backends.coreml_tools import ct, quiet_coremltools
from vqrae.runtimes.evidence import ParityFigures
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.parity import Reference, Sample, measure
from vqrae.runtimes.precision import Precision
from vqrae.runtimes.sealed import Sealed

FOLDER = Path(tempfile.mkdtemp(prefix="vqrae-coreml-tests-"))
atexit.register(shutil.rmtree, FOLDER)
DYNAMIC_FP32 = target("coreml")
ANYWHERE = LoadOptions()

mb = ct.converters.mil.Builder


def converted(
    name: str, precision: str = "fp32", *, batch: str = "dynamic", inputs: str = "tensor"
) -> tuple[Path, GraphSpec]:
    """A graph of the tiny SigLIP, converted once: its package, not to be changed, and its spec."""
    return _converted(name, precision, batch, inputs)


@cache
def _converted(name: str, precision: str, batch: str, inputs: str) -> tuple[Path, GraphSpec]:
    wanted = target("coreml", precision, batch=Batch.parse(batch), options={"inputs": inputs, "license": "MIT"})
    folder = FOLDER / f"{precision}-{batch}-{inputs}".replace(":", "-")
    folder.mkdir(exist_ok=True)
    return package(name, folder, tiny_model(), wanted)


@cache
def fp16_bundle(builder: BundleBuilder) -> Path:
    """The FP16 bundle of the tiny SigLIP; not to be changed."""
    wanted = target("coreml", "fp16")
    check_target(wanted)
    return Path(builder.build(wanted, FOLDER).bundle)


def package(
    name: str,
    folder: Path,
    model: VQRAE,
    wanted: Target = DYNAMIC_FP32,
    change: Callable[[nn.Module], nn.Module] = lambda module: module,
    rewire: Callable[[ExportedProgram], ExportedProgram] = lambda program: program,
) -> tuple[Path, GraphSpec]:
    """One graph's package, its module changed before it is traced, or its program after."""
    tokenizer = deployable(model)
    plan = next(plan for plan in tokenizer.graphs(wanted.batch.axis, split=True) if plan.name == name)
    changed = replace(plan, module=lambda form: change(plan.module(form)))
    images = wanted.format.images(wanted.options)
    program = rewire(program_from_plan(changed, FORMS[wanted.precision], images, {}))
    sources = Path(tempfile.mkdtemp(dir=FOLDER))
    job = job_of(wanted, tokenizer, sources, {name: write_program(program, changed, sources)}, folder)
    graph = write_package(job, name, CoreMLOptions.model_validate(job.options), None).graph
    return folder / graph.file, graph


def job_of(
    wanted: Target, tokenizer: Deployable, sources: Path, graphs: dict[str, GraphSpec], folder: Path
) -> ExportJob:
    """Of programs that lie in `sources`."""
    return ExportJob(
        folder=folder,
        sources=sources,
        graphs=graphs,
        scores={plan.name: plan.scores for plan in tokenizer.graphs(split=True)},
        precision=Precision(name=wanted.precision),
        batch=wanted.batch,
        options=wanted.options.model_dump(mode="json", exclude_defaults=True),
        name=tokenizer.identity.name,
        preprocessing=tokenizer.preprocessing,
        tokens=tokenizer.tokens,
        made_with={},
    )


def opened(path: Path, graph: GraphSpec, options: LoadOptions = ANYWHERE) -> CoreMLSession:
    """A session of one package."""
    graph = graph.model_copy(update={"file": path.name})
    return CoreMLSession.open(Sealed.in_place(path.parent), graph, options, RuntimeInfo(name="coreml", built_with={}))


@cache
def reference() -> Reference:
    """What the tiny SigLIP itself makes of eight images."""
    return reference_from_model(VqraeReference(tiny_model()), random_images(8).numpy())


def figures(encode: tuple[Path, GraphSpec], decode: tuple[Path, GraphSpec]) -> ParityFigures:
    """What two packages make of the reference's images, measured."""
    with opened(*encode) as encoding, opened(*decode) as decoding:
        encoded = encoding.run({"images": reference().images})
        sample = Sample(
            indices=encoded["indices"],
            features=encoded["features"],
            decoded=decoding.run({"indices": reference().indices})["images"],
            reconstructed=decoding.run({"indices": encoded["indices"]})["images"],
        )
    return measure(reference(), sample)


def hand_written(path: Path, body: Callable[..., Any], *shape: int, dtype: Any = None) -> Path:
    """A package of a function of one tensor `x`, as `mb.program` makes it."""
    spec = mb.TensorSpec(shape, dtype=dtype)
    program = mb.program(input_specs=[spec], opset_version=ct.target.iOS17)(body)
    with quiet_coremltools():
        ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            package_dir=str(path),
        )
    return path

"""What a refactoring must leave as it is: record it before, record it after, compare.

    frozen.py record FILE.json [--part NAME …]     parts that FILE holds already are kept, unless they are named
    frozen.py compare OLD.json NEW.json [--expect FILE]     exit 1 if there is a difference that FILE does not name

A line of FILE is `part: glob — reason`; `*` and `?` of the glob match anything, `/` too. Only the command line and the
documented Python API are used, so that this file runs unchanged where modules have moved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

Json = Any
ROOT = Path(__file__).resolve().parents[2]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", "SOURCE_DATE_EPOCH": "0"}
ENVIRONMENT = {**os.environ, **THREADS, **PLAIN, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
PACKAGES = ["vqrae", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "coremltools", "numpy"]
SHIPPED = "vqrae-tiny"
SHARED = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {**SHARED, "image_size": 32, "patch_size": 8}
WIDE = {"hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 2048}
PAIRS = {**SHARED, "image_size": [32, 32], "patch_size": [8, 8], "intermediate_size": 64}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("siglip_vision_model", {**SQUARE, "intermediate_size": 64, "vision_use_head": False}),
    "dinov2": ("dinov2", {**SQUARE, "mlp_ratio": 2, "layerscale_value": 0.7}),
    "dinov2-swiglu": ("dinov2", {**SQUARE, "mlp_ratio": 2, "use_swiglu_ffn": True}),
    "internvit": ("internvl_vision", {**PAIRS, "use_absolute_position_embeddings": True, "attention_bias": True}),
    "wide": ("siglip_vision_model", {**WIDE, "image_size": 128, "patch_size": 8, "vision_use_head": False}),
    "internvit-qk-norm": ("internvl_vision", {**PAIRS, "use_qk_norm": True, "norm_type": "rms_norm"}),
}
VARIANTS = ("dinov2-swiglu", "internvit-qk-norm", "wide")
"""Exported as ONNX FP32 only. `wide` is one that INT8 makes faster on a busy machine, too."""
DECODER = {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64, "patch_size": 8}
QUANTIZER = {"codebook_size": 64, "code_width": 48}

PRECISIONS = [f"--precision={name}" for name in ("fp32", "fp16", "int8", "int8-weights")]
EVERY = [*(f"--format={name}" for name in ("onnx", "openvino", "coreml")), *PRECISIONS]
CALIBRATED = ["--calibration=images", "--calibration-images=4"]
LOOSE = ["--max-excess-distortion=90%", "--min-agreement=1%", "--max-psnr-drop=40"]
GIVEN = [*CALIBRATED, "--images=2", "--allow-gate-failure"]
BUNDLE, SMALL, STORED = (f"bundles/{name}" for name in ("vqrae-tiny-onnx-fp32", "siglip-onnx-fp32", "siglip-onnx-int8"))
CALLS: dict[str, list[str]] = {
    "export": ["export", SHIPPED, "-o", "bundles", "--images=2"],
    "export, calibrated": ["export", "siglip", "-o", "bundles", *EVERY, *GIVEN],
    "verify": ["verify", BUNDLE, SMALL, STORED, "--images=2", "--threads=1"],
    "selftest": ["selftest", BUNDLE, "--threads=1"],
    "inspect": ["inspect", BUNDLE],
    "inspect, calibrated": ["inspect", STORED],
    "bench": ["bench", BUNDLE, "--rounds=6", "--threads=1", "--output=bench.json"],
    "bench, more": ["bench", SMALL, STORED, "--rounds=6", "--threads=1", "--naive", "--throughput=images"],
    "compare": ["compare", SMALL, STORED, "--rounds=6", "--threads=1", "--ignore-speed"],
    "compare, results": ["compare", "bench.json", "bench.json"],
    "eval": ["eval", SHIPPED, "--data=images", "--images=4"],
    "eval, bundle": ["eval", BUNDLE, "--data=images", "--images=4", "--threads=1", "--checkpoint", SHIPPED],
    "eval, task": ["eval", SHIPPED, "--task=probe", "--scenes=4"],
    "doctor": ["doctor"],
    "tokenize": ["tokenize", BUNDLE, "images", "-o", "tokens", "--threads=1"],
    "detokenize": ["detokenize", BUNDLE, "tokens", "-o", "back", "--threads=1"],
    "plan": ["plan", "wide", "-o", "plan", *CALIBRATED, "--measured=4", "--images=4", *LOOSE],
    "train": ["train", "tiny", "--dry-run"],
    "formats": ["formats"],
    "demo": ["demo", "--checkpoint=wide", "-o", "demo", "--rounds=6"],
}
"""What is called with `--json`: title -> verb and arguments. A bundle may miss a limit, whose exit status is 3."""

PHASES, STEPS = ("pretrain", "stage1", "stage2"), 50
SETTINGS: dict[str, Json] = {
    "model.image_size": 32,
    **{f"model.quantizer.{key}": value for key, value in QUANTIZER.items()},
    **{f"model.decoder.{key}": value for key, value in DECODER.items()},
    **{f"{phase}.{key}": STEPS for phase in PHASES for key in ("steps", "save_every")},
    **{f"{phase}.warmup": 5 for phase in PHASES},
    "stage2.perceptual": "teacher",
    "stage2.ema_decay": 0.9,
    "stage2.discriminator_start": 25,
    "stage2.discriminator_channels": 32,
}

LEFT_OUT = [
    "artifacts: evidence.machine and evidence.date name the machine and the time",
    "artifacts: evidence.gate and gate_failure_allowed of INT8, judged by speed too; other misses are recorded",
    "artifacts: TensorRT, whose engines are tied to a GPU; ‘files’ of the manifest is the map of hashes",
    "json: eval --task vqa and generate, which need a taught model; verbs without --json",
    "json: numbers, words and lengths; only paths and types are compared",
    "json: elements (strings) of misses, missing, over and broken, which are there only where speed or memory misses",
    "training: seconds of a step; events of TensorBoard",
]


def told(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def called(command: list[str], cwd: Path, allowed: tuple[int, ...] = (0,)) -> str:
    """What a program printed on standard output; it ends this one if its exit status is another than those allowed."""
    told(" ".join(command)[:150])
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}")
    return done.stdout


def vqrae(*arguments: str, cwd: Path, allowed: tuple[int, ...] = (0,)) -> str:
    """What `vqrae ARGUMENTS` printed."""
    return called([sys.executable, "-m", "vqrae", *arguments], cwd, allowed)


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def draw_images(folder: Path, count: int = 24) -> None:
    """Smooth noise, 96×80 pixels."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")


def refill(module: Json) -> None:
    """Other values in every float tensor, by its name: nothing depends on the order in which tensors are made."""
    import torch

    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(crc32(name.encode())))


def write_checkpoint(name: str, folder: Path) -> None:
    """A small tokenizer with patches of 8×8 pixels and 64 codes, saved, loaded and saved again."""
    from vqrae import VQRAE, VQRAEConfig, from_pretrained, save_pretrained

    family, network = NETWORKS[name]
    encoder: dict[str, Json] = {"family": family, "network": network}
    decoder, size = DECODER, 32
    if name == "wide":
        decoder, size = {**DECODER, "width": 512, "depth": 1, "mlp_width": 2048}, 128
    if family != "siglip_vision_model":
        encoder |= {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4)}
    values = {"name": name, "image_size": size, "encoder": encoder}
    model = VQRAE(VQRAEConfig(**values, quantizer=QUANTIZER, decoder=decoder)).eval()
    refill(model)
    save_pretrained(model, folder)
    save_pretrained(from_pretrained(folder), folder, overwrite=True)


def write_encoder(name: str, folder: Path) -> None:
    """A small vision network as transformers saves it."""
    import torch
    import transformers

    family, network = NETWORKS[name]
    torch.manual_seed(0)
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **network)).save_pretrained(folder)


def workspace(folder: Path) -> Path:
    """A folder with what the calls read: `images`, and the checkpoints by their names."""
    draw_images(folder / "images")
    shutil.copytree(ROOT / "assets" / SHIPPED, folder / SHIPPED)
    for name in NETWORKS:
        write_checkpoint(name, folder / name)
    return folder


def bundle(folder: Path, misses: list[str]) -> Json:
    """Hashes of a bundle's files, and its manifest without what the machine and the clock say."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    evidence = manifest["evidence"]
    timed = ("gate", "gate_failure_allowed") if manifest["precision"]["name"] == "int8" else ()
    for key in ("machine", "date", *timed):
        evidence.pop(key, None)
    files = {entry["path"]: sha256(folder / entry["path"]) for entry in manifest.pop("files")}
    return {"files": files, "manifest": manifest, "misses": [text for text in misses if " ms at INT8" not in text]}


def artifacts(work: Path) -> Json:
    """Bundles of the shipped tokenizer, and of a small one of every encoder family, in every format and precision.

    Of a family's variants, only one bundle.
    """
    record: Json = {"checkpoints": {}}
    for name in (SHIPPED, *NETWORKS):
        record["checkpoints"][name] = {path.name: sha256(path) for path in sorted((work / name).glob("*.*"))}
        wanted = ["--images=2"] if name in VARIANTS else [*EVERY, *GIVEN]
        rows = json.loads(vqrae("export", name, "-o", "bundles", *wanted, "--json", cwd=work))
        record |= {Path(row["bundle"]).name: bundle(work / row["bundle"], row["misses"]) for row in rows}
    return record


def paths(value: Json, at: str = "") -> set[str]:
    """Every key path with its JSON type; elements of arrays are one, and so are files and bundles."""
    if isinstance(value, dict):
        kind, named = "object", re.compile(r"[/.]|-(onnx|openvino|coreml)-")
        inside = [(f"{at}.{'*' if named.search(key) else key}", part) for key, part in value.items()]
    elif isinstance(value, list):
        inside, kind = [(f"{at}[]", part) for part in value], "array"
    else:
        inside, kind = [], {str: "string", bool: "boolean", int: "integer", float: "number"}.get(type(value), "null")
    return {f"{at or '.'}: {kind}"}.union(*(paths(part, name) for name, part in inside))


def schema(work: Path) -> Json:
    """What `--json` prints, by key paths and types, and the published schemas."""
    from vqrae.runtimes.manifest import manifest_schema

    record: Json = {}
    for title, arguments in CALLS.items():
        found = paths(json.loads(vqrae(*arguments, "--json", cwd=work, allowed=(0, 3))))
        record[title] = sorted(path for path in found if not re.search(r"(misses|missing|over|broken)\[\]", path))
    for name in ("bench", "manifest"):
        for path in ROOT.glob(f"docs/**/{name}.schema.json"):
            record[path.name] = json.loads(path.read_bytes())
    return record | {"manifest_schema()": manifest_schema()}


def helps(work: Path) -> Json:
    """The text of `--help` of every command, by its words."""
    record: dict[str, str] = {}
    left: list[tuple[str, ...]] = [()]
    while left:
        words = left.pop()
        text = vqrae(*words, "--help", cwd=work)
        record[" ".join(("vqrae", *words))] = "\n".join(line.rstrip() for line in text.splitlines())
        listed = re.search(r"─ Commands ─.*?╰", text, re.DOTALL)
        left += [(*words, name) for name in re.findall(r"^│ ([a-z]\S*)", listed[0], re.MULTILINE)] if listed else []
    return record


def test_ids(work: Path) -> Json:
    """The tests that are collected, slow ones included."""
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"--basetemp={work / 'tests'}"]
    lines = called([sys.executable, *command], ROOT).splitlines()
    return sorted(line for line in lines if re.match(r"\S+\.py::", line))


def follow(totals: Path, arguments: list[str]) -> None:
    """Run `vqrae ARGUMENTS` here, on one thread; write what `backward` was called on, and have every step logged.

    The log's interval is no option of the command: the constant LOG_EVERY is set wherever it lies. Where there is none,
    the log holds the last step only.
    """
    import torch

    del sys.path[0]  # this file's folder
    torch.set_num_threads(1)
    backward, values = torch.Tensor.backward, []

    def followed(self: torch.Tensor, *args: Any, **options: Any) -> None:
        values.append(self.item())
        for name, module in list(sys.modules.items()):
            if name.startswith("vqrae") and hasattr(module, "LOG_EVERY"):
                module.LOG_EVERY = 1
        backward(self, *args, **options)

    torch.Tensor.backward = followed  # type: ignore[assignment]
    sys.argv[1:] = arguments
    try:
        runpy.run_module("vqrae", run_name="__main__", alter_sys=True)
    finally:
        totals.write_text(json.dumps(values))


def trained(work: Path, title: str, arguments: list[str]) -> Json:
    """A run's terms of the loss at every step, the losses that were differentiated, and the hashes of its results."""
    command = [sys.executable, __file__, "follow", f"{title}.json", "train", "tiny", "--data", "images", "-o", title]
    called([*command, *arguments], work)
    run = work / title
    terms: Json = {path.parent.name: {} for path in sorted(run.glob("state/*/log.jsonl"))}
    for phase, steps in terms.items():
        for row in map(json.loads, (run / "state" / phase / "log.jsonl").read_text().splitlines()):
            steps[f"step {row.pop('step')}"] = {name: value for name, value in row.items() if name != "seconds"}
    results = {path.relative_to(run).as_posix(): sha256(path) for path in sorted(run.glob("*/*.safetensors"))}
    return {"terms": terms, "backward": json.loads((work / f"{title}.json").read_bytes()), "results": results}


def training(work: Path) -> Json:
    """All phases of a small SigLIP, in the recipe's own precision, and the stages on a given encoder of each family."""
    network = {f"model.encoder.network.{key}": value for key, value in NETWORKS["siglip"][1].items()}
    given = {"stage1.precision": "fp32", "stage2.precision": "fp32"}
    record = {}
    for title, more in {"from scratch": network, **dict.fromkeys(("siglip", "dinov2", "internvit"), given)}.items():
        options = [f"--set={key}={json.dumps(value)}" for key, value in {**SETTINGS, **more}.items()]
        if title in NETWORKS:
            write_encoder(title, work / f"encoder-{title}")
            options += ["--encoder", f"encoder-{title}"]
        record[title] = trained(work, f"run {title}", options)
    return record


PARTS = {"help": helps, "tests": test_ids, "training": training, "json": schema, "artifacts": artifacts}


def record_parts(file: Path, names: list[str]) -> None:
    """Record parts into a file, which is written after each of them."""
    import vqrae as ours

    if not Path(str(ours.__file__)).is_relative_to(ROOT):
        sys.exit(f"{sys.executable} imports {ours.__file__}, which is not below {ROOT}")
    record = json.loads(file.read_bytes()) if file.exists() else {"parts": {}}
    for name in names or [name for name in PARTS if name not in record["parts"]]:
        began = time.monotonic()
        with TemporaryDirectory(prefix="frozen-") as folder:
            done = PARTS[name](workspace(Path(folder)) if name in ("training", "json", "artifacts") else Path(folder))
        about = {"commit": called(["git", "rev-parse", "HEAD"], ROOT).strip(), "python": sys.version.split()[0]}
        about |= {"seconds": round(time.monotonic() - began)} | {it: metadata.version(it) for it in PACKAGES}
        record["parts"][name] = done
        record["about"] = {**record.get("about", {}), name: about}
        record["left_out"] = LEFT_OUT
        file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        told(f"{name}: {about['seconds']} s")


def leaves(value: Json, at: str = "") -> Iterator[tuple[str, Json]]:
    """Every value by its path; an array of strings is a set."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{at} / {key}" if at else key)
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        yield from ((f"{at} / {part}" if at else part, "there") for part in value)
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from leaves(part, f"{at} / {number}")
    else:
        yield at, value


def shown(old: Json, new: Json) -> str:
    """A difference on one line; of texts their first lines that differ."""
    if isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        pairs = zip([*old.splitlines(), ""], [*new.splitlines(), ""], strict=False)
        old, new = next(((a, b) for a, b in pairs if a != b), ("", "more lines"))
    return f"{str(old)[:120]} → {str(new)[:120]}"


def compare(old: Path, new: Path, expect: Path | None) -> int:
    """Print every difference that is not expected; the exit status."""
    records = [json.loads(path.read_bytes())["parts"] for path in (old, new)]
    lines = [line for line in (expect.read_text().splitlines() if expect else []) if " — " in line and line[0] != "#"]
    globs = {
        line: re.escape(line.partition(" — ")[0].strip()).replace(r"\*", ".*").replace(r"\?", ".") for line in lines
    }
    unexpected, met = 0, dict.fromkeys(lines, 0)
    for part in PARTS:
        found = [dict(leaves(record[part])) if part in record else {"(not recorded)": ""} for record in records]
        for key in sorted({key for one in found for key in one}):
            a, b = (one.get(key, "(missing)") for one in found)
            if a == b and type(a) is type(b):
                continue
            line = next((line for line in lines if re.fullmatch(globs[line], f"{part}: {key}", re.DOTALL)), None)
            if line is None:
                unexpected += 1
                print(f"{part}: {key}: {shown(a, b)}")
            else:
                met[line] += 1
        print(f"{part}: {len(found[0])} values before, {len(found[1])} after")
    for line, count in met.items():
        print(f"expected, {count} times: {line}")
    print(f"{unexpected} differences that are not expected" if unexpected else "equal, but for what is expected")
    return int(unexpected > 0)


def main() -> int:
    """Read the command line."""
    if sys.argv[1:2] == ["follow"]:
        follow(Path(sys.argv[2]), sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recorder, comparer = verbs.add_parser("record"), verbs.add_parser("compare")
    recorder.add_argument("file", type=Path)
    recorder.add_argument("--part", nargs="+", action="extend", choices=PARTS, default=[])
    comparer.add_argument("old", type=Path)
    comparer.add_argument("new", type=Path)
    comparer.add_argument("--expect", type=Path)
    given = parser.parse_args()
    if given.verb == "compare":
        return compare(given.old, given.new, given.expect)
    record_parts(given.file, given.part)
    return 0


if __name__ == "__main__":
    sys.exit(main())

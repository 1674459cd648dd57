"""Every verb that loads a bundle takes the options of `LoadOptions`, all of them, and acts on them."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqrae.cli.app import VERBS, main
from vqrae.cli.options import Loading, TimedLoading, WorkerLoading, spelled_out
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.signature import make_keys

LOADING = {
    "bench": ["BUNDLE", "--bundles-only", "--rounds", "6"],
    "compare": ["BUNDLE", "BUNDLE", "--rounds", "6"],
    "verify": ["BUNDLE", "--data", "IMAGES"],
    "eval": ["BUNDLE", "--data", "IMAGES"],
    "selftest": ["BUNDLE"],
    "encode": ["BUNDLE", "IMAGE", "-o", "OUT.npy"],
    "decode": ["BUNDLE", "TOKENS", "-o", "OUT"],
    "reconstruct": ["BUNDLE", "IMAGE", "-o", "OUT.png"],
    "serve": ["BUNDLE", "--port", "0"],
    "tokenize": ["BUNDLE", "IMAGES", "-o", "OUT"],
    "detokenize": ["BUNDLE", "IMAGES", "-o", "OUT"],
}
"""Verb -> what it is called with; `generate` needs a painter (tests/cli/test_uses.py)."""
OPTIONS = ["--device", "cpu", "--threads", "1", "--streams", "2", "--sealing", "memory", "--trusted"]


@pytest.fixture
def words(exported: Path, tmp_path: Path) -> dict[str, str]:
    """What the words of `LOADING` stand for."""
    image, tokens = tmp_path / "images" / "noise.png", tmp_path / "tokens.npy"
    image.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)).save(image)
    np.save(tokens, np.zeros((1, 4, 4), np.int32))
    out = {name: str(tmp_path / name.lower()) for name in ("OUT", "OUT.npy", "OUT.png")}
    return out | {"BUNDLE": str(exported), "IMAGES": str(image.parent), "IMAGE": str(image), "TOKENS": str(tokens)}


def test_no_verb_spells_the_options_itself() -> None:
    names = {field.name for field in fields(LoadOptions)}
    assert len(names) == 7
    for verb, function in VERBS.items():
        annotations = [
            parameter.annotation for parameter in inspect.signature(function, eval_str=True).parameters.values()
        ]
        own = set(inspect.signature(function).parameters) & names
        shown = set(inspect.signature(spelled_out(function)).parameters) & names
        if Loading in annotations or WorkerLoading in annotations:
            assert (own, shown) == (set(), names), verb
        elif TimedLoading in annotations:
            assert own <= {"threads", "streams"}, verb
            assert shown >= names - {"threads", "streams"}, verb
        elif TimedLoading in annotations:
            assert own <= {"threads", "streams"} < names <= shown | {"streams"}, verb
        else:
            assert verb not in LOADING
            assert own <= {"public_key"}, verb


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments")  # Ray Serve's own, at import
@pytest.mark.parametrize("verb", LOADING)
def test_a_wrong_public_key_is_refused(
    verb: str, words: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = make_keys(tmp_path / "ours")[1]
    with pytest.raises(SystemExit) as ended:
        main([verb, *(words.get(word, word) for word in LOADING[verb]), "--public-key", str(key)])
    assert ended.value.code == 5
    assert f"{words['BUNDLE']}.sig" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "eval", "selftest", "encode", "decode", "reconstruct"])
def test_the_options_reach_the_runtime(
    verb: str, words: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqrae.runtimes.backends.onnxruntime import OnnxRuntimeSession

    seen = []
    opened = OnnxRuntimeSession.open.__func__  # type: ignore[attr-defined] # a classmethod's function

    def recorded(cls, sealed, graph, options, runtime):  # type: ignore[no-untyped-def] # as `Session.open`
        seen.append(options)
        return opened(cls, sealed, graph, options, runtime)

    monkeypatch.setattr(OnnxRuntimeSession, "open", classmethod(recorded))
    cache = tmp_path / "cache"
    with pytest.raises(SystemExit) as ended:
        main([verb, *(words.get(word, word) for word in LOADING[verb]), *OPTIONS, "--cache", str(cache)])
    assert ended.value.code == 0
    wanted = LoadOptions(device="cpu", threads=1, streams=2, sealing="memory", trusted=True, cache=cache)
    assert set(seen) == {wanted}


def test_options_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    options = LoadOptions(device="cpu", threads=2, public_key=tmp_path / "ours.pub")
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301 - our own


@pytest.mark.parametrize("change", [{"threads": 0}, {"streams": 0}])
def test_impossible_options(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="got 0; expected at least 1"):
        replace(LoadOptions(), **change)


def test_the_earlier_name_says_the_new_one() -> None:
    import vqrae.runtimes

    with pytest.raises(AttributeError, match="LoadOptions now"):
        _ = vqrae.runtimes.SessionOptions

from __future__ import annotations

import importlib.metadata
import sys
from importlib.util import find_spec

import pytest

from vqrae.runtimes import registry
from vqrae.runtimes.errors import RuntimeUnavailable, UsageError
from vqrae.runtimes.registry import RUNTIMES, runtime_version, session_class
from vqrae.runtimes.session import Session


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_every_runtime_of_the_table_has_a_session_or_says_how_to_install_it(name: str) -> None:
    if find_spec(RUNTIMES[name].module) is None:
        with pytest.raises(RuntimeUnavailable, match=rf"{name} is not installed: .*`pip install 'vqrae\[{name}\]'`"):
            session_class(name)
    else:
        assert issubclass(session_class(name), Session)


def test_an_unknown_runtime_gets_the_nearest_name() -> None:
    message = "runtime: got 'onnx-runtime'; expected one of onnxruntime, .*; did you mean onnxruntime\\?$"
    with pytest.raises(UsageError, match=message):
        session_class("onnx-runtime")
    with pytest.raises(
        UsageError, match=r"got 'x'; expected one of onnxruntime, openvino, coreml, tensorrt, tensorrt-rtx$"
    ):
        runtime_version("x")


def test_a_missing_framework_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = r"^onnxruntime is not installed: Install it with `pip install 'vqrae\[onnxruntime\]'`$"
    with pytest.raises(RuntimeUnavailable, match=message) as caught:
        session_class("onnxruntime")
    assert caught.value.exit_code == 4


def test_two_wheels_in_one_folder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_version", lambda wheel: "1.0" if wheel != "onnxruntime-openvino" else None)
    message = (
        r"^onnxruntime: got onnxruntime and onnxruntime-gpu, which share one folder.*; expected one of them; "
        r"`pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'vqrae\[onnxruntime\]'`$"
    )
    with pytest.raises(RuntimeUnavailable, match=message):
        session_class("onnxruntime")


def test_a_framework_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vqrae.runtimes.backends.onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime.capi", None)
    with pytest.raises(RuntimeUnavailable, match=r"^onnxruntime cannot be imported: got .*; Install it with"):
        session_class("onnxruntime")


def test_the_version_is_that_of_the_installed_package() -> None:
    assert runtime_version("onnxruntime") == importlib.metadata.version("onnxruntime")


def test_the_version_of_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert runtime_version("onnxruntime") is None

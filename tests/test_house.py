"""What the house's rules forbid, looked for in the text of the product."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("vqrae", "runtimes", "calibration", "export", "benchmarks")
NAMED = r"""["'](?:fp32|fp16|bf16|int8|int8-weights)["']"""
ASKED = (
    re.compile(rf"precisions?(?:\.name)?\)? *(?:==|!=|(?<!for )\bnot in|(?<!for )\bin) *[(\[{{]?{NAMED}"),
    re.compile(rf"{NAMED} *(?:==|!=|not in|in) [\w.]*precision"),
    re.compile(rf"(?:==|!=) *\([^)]*{NAMED}[^)]*\)"),
    re.compile(rf"(?:asked|name|kind\.name) *(?:==|!=) *{NAMED}"),
)
"""`for precision in ("fp32", "fp16")` asks for nothing: it goes through some."""


def sources() -> list[Path]:
    return [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_precision_is_asked_for_by_name_but_beside_the_table() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        if path != ROOT / "runtimes" / "precision.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(pattern.search(re.sub(r"for [\w, ]+ in [^:]*?(?= if |:|$)", "", line)) for pattern in ASKED)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"\bfamily *(?:==|!=)", "vqrae/model/encoders"),
        (r"\bquantizer\.(?:codebook|transform)\b", "vqrae/model/quantizers"),
        (r"\bkind *(?:==|!=) *[\"'](?:simvq)", "vqrae/model/quantizers"),
    ],
    ids=["families", "codebooks", "kinds"],
)
def test_families_and_kinds_are_asked_through_their_row(pattern: str, home: str) -> None:
    """A study of one family may say which."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources()
        if not path.is_relative_to(ROOT / home) and "studies" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(pattern, line)
    ]
    assert found == []


def test_export_knows_vqrae_in_one_file() -> None:
    """`vqrae.model.parts`, what networks come apart into, knows no tokenizer."""
    known = re.compile(r"\bVQRAE\w*\(|import .*\bVQRAE|\bvqrae\.model\b(?!\.parts)|\bvqrae\.config\b")
    found = [path for path in (ROOT / "export").rglob("*.py") if known.search(path.read_text(encoding="utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in found] == ["export/tokenizers/vqrae.py"]


def test_functions_fit_a_screen_and_files_a_sitting() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources()}
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len([name for name, lines in functions.items() if lines > 40]) <= 15
    assert {name: lines for name, lines in functions.items() if lines > 80} == {}
    assert [path for path in trees if len(path.read_text(encoding="utf-8").splitlines()) > 450] == []

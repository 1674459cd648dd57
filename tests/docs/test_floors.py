"""import-linter's floors, the README's tree and CONTRIBUTING's arrows tell one story."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def floors() -> list[set[str]]:
    """The folders of each floor, from the top: what import-linter holds, without what is no folder."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["name"].startswith("The floors"))
    found = [{folder for module in layer.split(" | ") if (folder := folder_of(module))} for layer in layers]
    return [floor for floor in found if floor]


def folder_of(module: str) -> str | None:
    """Where a package lies: `vqrae.export` in `export`; None for a module."""
    inside = module.removeprefix("vqrae.")
    return next((name for name in (inside, f"vqrae/{inside}") if (ROOT / name / "__init__.py").is_file()), None)


def test_every_package_stands_on_a_floor() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "vqrae").glob("*/__init__.py")}
    packages |= {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"vqrae"}
    assert set().union(*floors()) == packages


def test_contributing_s_arrows_are_the_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    arrows = next(part for part in text.split("\n\n") if part.count("→") > 2)
    assert [set(re.findall("`(.+?)`", floor)) for floor in arrows.split("→")] == floors()


def test_the_readme_s_tree_goes_down_the_floors() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"## Where things live\n\n```text\n(.*?)```", text, re.DOTALL)
    assert tree
    folders = [line.split()[0].rstrip("/") for line in tree[1].splitlines()]
    heights = [next(height for height, floor in enumerate(floors()) if folder in floor) for folder in folders]
    assert set(folders) == set().union(*floors())
    assert heights == sorted(heights)

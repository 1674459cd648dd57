"""Every name that the page on Python describes imports, in a fresh process, without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORTED = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, rest = name.partition(":")
    found = importlib.import_module(module)
    for part in rest.split("."):
        found = getattr(found, part)
    assert found.__doc__, name
"""


def names() -> list[str]:
    """`module:name` for each: a described module's chosen members, or a name with its module before it."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    found = []
    for described, options in re.findall(r"^::: (\S+)\n( +options: .*\n)?", page, re.MULTILINE):
        members = re.search(r"members: \[(.*?)\]", options)
        module, _, name = described.rpartition(".")
        found += [f"{described}:{member}" for member in members[1].split(", ")] if members else [f"{module}:{name}"]
    return found


def test_every_name_imports_without_a_warning() -> None:
    assert len(names()) > 15
    command = [sys.executable, "-W", "error", "-c", IMPORTED, *names()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")

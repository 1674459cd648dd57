from __future__ import annotations

from pathlib import Path

import pytest
from phases import write_photographs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of smooth noise."""
    return write_photographs(tmp_path_factory.mktemp("photographs"))

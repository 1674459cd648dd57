from __future__ import annotations

import numpy as np
import pytest

from vqrae.calibration.rounding import Shelf


def test_arrays_come_back_as_they_were_and_cannot_be_changed(tmp_path):
    arrays = [np.random.default_rng(seed).normal(size=(seed + 2, 3)).astype(np.float32) for seed in range(3)]
    shelf = Shelf(tmp_path)
    mapped = [shelf.put(array) for array in arrays]
    for one, other in zip(arrays, mapped, strict=True):
        np.testing.assert_array_equal(one, other)
        assert isinstance(other, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            other[0] = 0
    assert len(list(tmp_path.iterdir())) == len(arrays)

"""Series that are drawn."""

import numpy as np
import pytest

from orchestrator.report.series import POINTS, smoothed, thinned


def test_long_series_are_thinned_and_smoothed() -> None:
    values = np.arange(10_000, dtype=np.float64)
    along, thin = thinned(values, values)
    assert len(along) == POINTS and thin[0] == pytest.approx(12, abs=1) and np.all(np.diff(thin) > 0)
    assert smoothed(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    assert len(smoothed(values)) == len(values)

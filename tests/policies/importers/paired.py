"""Paired returns of two controllers in the same episodes."""

import numpy as np
import numpy.typing as npt


def assert_equal_returns(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> None:
    """The mean difference lies within its own 99 % interval, which is a narrow one."""
    assert np.ptp(theirs) > 0.0
    difference = ours - theirs
    half_interval = 2.58 * difference.std(ddof=1) / np.sqrt(len(difference))
    scale = np.abs(theirs).mean()
    assert abs(difference.mean()) <= half_interval + 1e-5 * scale
    # The interval proves nothing were it wide.
    assert half_interval <= 1e-2 * scale

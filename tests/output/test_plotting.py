"""Bars and axes that all figures share."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from rm_toolkit.output.plotting import accuracy_axis, in_percent, num_bins


@pytest.mark.parametrize(("count", "bars"), [(1, 8), (64, 8), (1000, 20), (3375, 30), (10**6, 30)])
def test_few_values_get_few_bars(count, bars):
    assert num_bins(count) == bars


def test_the_bars_of_a_histogram_sum_to_a_hundred():
    heights, _ = np.histogram([1.0, 1.5, 3.0, 7.0], bins=3, weights=in_percent(4))
    assert heights.tolist() == [50.0, 25.0, 25.0]


def test_an_accuracy_axis_runs_from_0_to_1_with_a_line_at_chance():
    axis = Figure().add_subplot()
    accuracy_axis(axis, room=0.2)
    assert axis.get_ylim() == (0, 1.2)
    assert [list(line.get_ydata()) for line in axis.get_lines()] == [[0.5, 0.5]]
    assert axis.get_yticks().tolist() == [0, 0.25, 0.5, 0.75, 1]

"""The look of a study's figures."""

from __future__ import annotations

from rm_toolkit.output.plotting import COLORS
from rm_toolkit.study.report import _look


def test_strategies_beyond_the_colors_look_different():
    looks = [tuple(_look(number).items()) for number in range(3 * len(COLORS))]
    assert len(set(looks)) == len(looks)

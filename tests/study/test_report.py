"""The look of a study's figures."""

from __future__ import annotations

from rm_toolkit.output.plotting import COLORS
from rm_toolkit.study.grid import Cell, load_study
from rm_toolkit.study.report import _look
from rm_toolkit.study.tables import run_rows


def test_strategies_beyond_the_colors_look_different():
    looks = [tuple(_look(number).items()) for number in range(3 * len(COLORS))]
    assert len(set(looks)) == len(looks)


def test_each_run_is_listed_with_its_accuracies(study_file):
    end = {"a": {"accuracy": 0.7}, "b": {"accuracy": 0.6}, "dsp_law": {"accuracy": 0.9}}
    ended = {"results": {"start": {}, "end": end}, "seconds": 61.4, "command": "run it"}
    grft = Cell("grft", "tiny", "hh", 0.0, 0)
    crft = Cell("crft", "tiny", "hh", 0.0, 0, "plain", "law")
    other = {**ended, "results": {"start": {}, "end": {"a": {"accuracy": 0.7}}}}
    rows = run_rows(load_study(study_file()), {grft: ended, crft: ended, Cell("grft", "tiny", "hh", 0.1, 0): other})
    assert [row[1:] for row in rows] == [
        ["-", "0.650", "61", "run it"],
        ["0.900", "0.650", "61", "run it"],
        ["-", "-", "61", "run it"],
    ]

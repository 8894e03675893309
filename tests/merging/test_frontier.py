"""The weight that a frontier chooses, worked by hand, and what it reports."""

import pytest
from browser import look_over

from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.metrics import PreferenceMetrics
from rm_toolkit.merging.frontier import Frontier, Point, check_weights, choose
from rm_toolkit.merging.frontier_report import describe_choice, save_frontier


POINTS = [Point(0.0, 0.80, 0.50), Point(0.3, 0.81, 0.70), Point(0.6, 0.79, 0.80), Point(1.0, 0.70, 0.90)]


@pytest.mark.parametrize(
    ("allowed_loss", "weight"),
    [(0.0, 0.3), (0.009, 0.3), (0.01, 0.6), (0.099, 0.6), (0.1, 1.0), (0.5, 1.0)],
)
def test_the_most_customized_point_within_the_allowed_loss(allowed_loss, weight):
    assert choose(POINTS, allowed_loss).weight == weight


def test_of_equals_the_smallest_weight():
    assert choose([Point(0.0, 0.8, 0.5), Point(0.5, 0.8, 0.7), Point(1.0, 0.8, 0.7)], 0.01).weight == 0.5


def test_where_nothing_is_allowed_the_general_model_remains():
    points = [Point(0.0, 0.8, 0.5), Point(0.5, 0.6, 0.7), Point(1.0, 0.5, 0.9)]
    assert choose(points, 0.01).weight == 0.0
    words = describe_choice(Frontier(points, points[0], 0.01, ["helpful"], ["law"]))
    assert "so the general model was chosen" in words


def test_the_choice_in_words():
    words = describe_choice(Frontier(POINTS, POINTS[2], 0.01, ["helpful"], ["law"]))
    assert "weight 0.6, customized 0.5000 -> 0.8000 (75% of the gain), general 0.8000 -> 0.7900" in words


def test_weights_are_ordered_and_hold_both_ends():
    assert check_weights([0.5, 0.2, 0.5]) == [0.0, 0.2, 0.5, 1.0]
    with pytest.raises(InputError, match=r"--weights has 1\.5"):
        check_weights([1.5])


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path):
    hostile = "</script><script>window.hit=1</script>"
    names = ["helpful", hostile, "law"]
    points = []
    for weight in range(11):
        general, customized = 0.8 - weight / 100, 0.5 + weight / 50
        metrics = PreferenceMetrics(customized, customized, 0.1, 0.6, 0.0, 1.0, 120, 0, 0)
        points.append(Point(weight / 10, general, customized, dict.fromkeys(names, metrics)))
    save_frontier(Frontier(points, points[4], 0.05, names[:2], ["law"]), tmp_path)
    for tab in look_over(tmp_path / "report.html", pictures=1):
        assert tab.texts("thead th") == ["weight", "general", "customized", *names]
        assert tab.locator("tbody tr").count() == 11 and "Chosen: weight 0.4" in tab.texts("section p")[0]

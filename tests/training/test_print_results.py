"""What a run prints at the end."""

from __future__ import annotations

from rm_toolkit.training.stages import print_results


def results(**pairs):
    metrics = {name: {"accuracy": 0.5, "num_pairs": number} for name, number in pairs.items()}
    return {"start": {}, "end": metrics}


def test_a_run_without_test_sets_prints_no_table(capsys):
    print_results("outputs/rm", results(), 5)
    assert capsys.readouterr().out == "Saved to outputs/rm; 5 texts give the same rewards in a fresh process.\n"


def test_an_accuracy_of_few_pairs_is_reported_as_such(capsys):
    print_results("outputs/rm", results(mine=4, helpful=140), 5)
    said = capsys.readouterr().out
    assert "Fewer than 30 pairs tell little about accuracy: mine.\n" in said and "0.5000" in said
    print_results("outputs/rm", results(helpful=140), 5)
    assert "Fewer than" not in capsys.readouterr().out

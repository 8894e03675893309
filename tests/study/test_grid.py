"""The cells of a study: which there are, what they are called, and what they run."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_start import LAW, general_stage, shared_start

from rm_toolkit.errors import InputError
from rm_toolkit.study.grid import Cell, cells, command, load_study
from rm_toolkit.study.runner import StudyRunner
from rm_toolkit.training.recipe import parse_recipe


ROOT = Path(__file__).parents[2]


def test_the_grid_is_every_combination_and_starts_come_first(study_file):
    found = cells(load_study(study_file()))
    grft = [cell for cell in found if cell.stage == "grft"]
    assert [cell.name for cell in grft] == [
        f"grft--tiny--hh--lm{coefficient}--seed{seed}" for coefficient in ("0", "0.1") for seed in (0, 1)
    ]
    # without GRFT, there is no LM coefficient: 1 + 2 starts, 2 strategies, 2 seeds
    assert len(found) - len(grft) == 3 * 2 * 2 and found[: len(grft)] == grft
    assert {cell.start for cell in found if cell.stage == "crft"} == {None, *grft}
    assert len({cell.name for cell in found}) == len(found)


def test_nothing_is_anchored_to_a_model_that_was_never_trained(study_file):
    strategies = {"plain": None, "anchor": {"general_replay_fraction": 0.25, "anchor_coef": 1}}
    crft = {"config": "recipes/tiny/crft.yaml", "strategies": strategies, "domains": ["law"]}
    found = [cell for cell in cells(load_study(study_file(crft=crft))) if cell.stage == "crft"]
    assert {cell.strategy for cell in found if cell.data == "none"} == {"plain"}
    assert {cell.strategy for cell in found if cell.data == "hh"} == {"plain", "anchor"}


def test_commands_are_what_the_recipes_take(study_file, tmp_path):
    """They are parsed as strictly as recipes parse their flags."""
    study = load_study(study_file())
    study.launch = []
    for cell in cells(study):
        words = command(study, cell, tmp_path / "out", tmp_path / "start" if cell.start else None)
        assert words[0] == f"recipes/{cell.stage}.py"
        recipe, training, model = parse_recipe(words[2], [*words[3:], "--use_cpu", "true"])
        assert training.seed == cell.seed and training.output_dir == str(tmp_path / "out")
        assert recipe.overwrite_output_dir and not recipe.next_command
        if cell.stage == "grft":
            assert recipe.train_datasets == {"helpful": "x"} and training.eval_steps == 10
            assert training.lm_loss_coef == cell.grft_lm_loss_coef and recipe.tiny_base == {"hidden_size": 8}
        else:
            assert training.lm_loss_coef == {"plain": 0, "imitation": 0.1}[cell.strategy]
            assert recipe.domain == "law" and recipe.allow_new_head is (cell.start is None)
            assert model.model_name_or_path == (str(tmp_path / "start") if cell.start else "base")


BENCHMARKS = ROOT / "benchmarks/published"
STUDIES = [
    *(ROOT / "recipes").glob("*/study.yaml"),
    *BENCHMARKS.glob("study_*.yaml"),
    *BENCHMARKS.glob("smollm2_*.yaml"),
]


@pytest.mark.parametrize("path", sorted(STUDIES), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_study_of_the_repository_is_made_of_valid_commands(path, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    study = load_study(path)
    study.launch = []
    for cell in cells(study):
        if cell.seed == study.seeds[0]:
            words = command(study, cell, tmp_path / "out", tmp_path / "start" if cell.start else None)
            recipe, _, _ = parse_recipe(words[2], [*words[3:], "--use_cpu", "true", "--bf16", "false"])
            assert set(study.general_sets) <= set(recipe.eval_datasets)
            if cell.stage == "crft":
                assert study.customized_set.replace("{domain}", cell.domain) in recipe.eval_datasets


MISTAKES = {
    "a misspelt name": ({"seedz": [1]}, r"there is no setting `seedz`. Did you mean 'seeds'\?"),
    "a number where a list belongs": ({"seeds": 3}, r"`seeds` is 3; it must be a list"),
    "no seed": ({"seeds": []}, r"`seeds` is \[\]; it must be a list that is not empty"),
    "no base": ({"base_models": {"tiny": {}}}, r"base model 'tiny' needs `model_name_or_path`"),
    "a stage that is no mapping": ({"grft": "x"}, r"`grft` is 'x'; it must be a mapping"),
    "a misspelt name in a stage": (
        {"grft": {"config": "recipes/tiny/grft.yaml", "dat": {}}},
        r"`grft`: there is no setting `dat`. Did you mean 'data'\?",
    ),
    "a recipe that is not there": (
        {"crft": {"config": "nowhere.yaml", "strategies": {"plain": None}, "domains": ["law"]}},
        r"the recipe nowhere.yaml does not exist",
    ),
    "a weight outside": (
        {"merge_weights": [1.5]},
        r"`merge_weights` is \[1.5\]; it must be a list, each item a number from 0 to 1",
    ),
    "nothing to merge": (
        {
            "merge_weights": [0.5],
            "crft": {"config": "recipes/tiny/crft.yaml", "strategies": {"imitation": None}, "domains": ["law"]},
        },
        r"a strategy named 'plain', but there is none",
    ),
    "no strategy of that name to merge": (
        {"merge_weights": [0.5], "merge_strategies": ["plain", "replay"]},
        r"a strategy named 'replay', but there is none. `merge_strategies` names others",
    ),
    "two cells of one name": ({"seeds": [0, 0]}, r"two cells have the same name"),
}


@pytest.mark.parametrize("changes, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named(study_file, changes, message):
    with pytest.raises(InputError, match=message):
        load_study(study_file(**changes))


def test_a_missing_name_is_named(study_file, tmp_path):
    path = study_file()
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("customized_set"))
    path.write_text(text)
    with pytest.raises(InputError, match="`customized_set` is missing"):
        load_study(path)


def test_names_are_safe_as_folders():
    cell = Cell("crft", "a/b c", "hh", 0.1, 3, "plain", "law")
    assert cell.name == "crft--a_b_c--hh--lm0.1--plain--law--seed3"


def test_a_start_taken_from_grft_needs_its_test_sets(study_file):
    StudyRunner(load_study(study_file(crft=shared_start(), grft=general_stage({"a": "data/a", "b": "data/b", **LAW}))))
    with pytest.raises(InputError, match="the GRFT run does not evaluate 'dsp_law'"):
        StudyRunner(load_study(study_file(crft=shared_start(), grft=general_stage({"a": "data/a", "b": "data/b"}))))
    with pytest.raises(InputError, match=r"'b' is another test set in the GRFT run: \{'path': 'data/other'\}"):
        StudyRunner(
            load_study(study_file(crft=shared_start(), grft=general_stage({"a": "data/a", "b": "data/other", **LAW})))
        )


def test_a_start_taken_from_grft_needs_grft(study_file):
    stage = general_stage({"a": "data/a", "b": "data/b", **LAW}, {"none": None, "hh": {"helpful": "x"}})
    with pytest.raises(
        InputError, match=r"strategy 'imitation' of base model 'tiny' .* without GRFT nothing else measures"
    ):
        StudyRunner(load_study(study_file(crft=shared_start(), grft=stage)))

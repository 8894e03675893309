"""What a model card says about a run, worked by hand, and that the Hub can read its metadata."""

import copy
import json

import pytest
import yaml
from hub.conftest import LINEAGE, RESULTS
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from rm_toolkit.errors import InputError
from rm_toolkit.hub.evaluation_files import stage_evaluation
from rm_toolkit.hub.lineage import data_licenses
from rm_toolkit.hub.model_card import CardOptions, Example, model_card
from rm_toolkit.hub.staging import check_no_foreign_weights, public_settings
from rm_toolkit.models.settings import RewardModelSettings


EXAMPLE = Example("p ", "c", "p c", [1, 5, 7], -0.123456)


@pytest.fixture
def card(tmp_path):
    def make(results=RESULTS, lineage=LINEAGE, license=None, figures=(), report=None, config=None, **settings):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        if results is not None:
            (tmp_path / "final_eval_results.json").write_text(json.dumps(results))
        values = {"stage": "crft", "domain": "literature", "lineage": copy.deepcopy(lineage), **settings}
        options = CardOptions(license=license, figures=list(figures), report=report)
        return model_card(str(tmp_path), "me/my-rm", RewardModelSettings(**values), EXAMPLE, options)

    return make


def test_lineage_results_and_example_are_in_the_card(card):
    text = str(card())
    assert ": some/base → GRFT → CRFT (literature)." in text
    assert "| helpful | 0.5000 | 0.7310 | 0.000 | 1.250 | 2,352 | 3 |" in text
    assert "| helpful | -0.2500 | 1.7500 |" in text  # mean and standard deviation of the rewards
    assert "| helpful | train | 43,774 | hh | `f1` | path hh, source hh |" in text
    assert "| `learning_rate` | 1e-06 |" in text and "| `warmup_steps` | 100 |" in text and "| `lora_r` | 8 |" in text
    assert "max_steps" not in text  # -1: not set
    assert "'p c'" in text and "[1, 5, 7]" in text and "-0.1235" in text
    assert "@article{cheng2023everyone" in text


def test_the_commands_that_serve_it_stand_on_the_card(card):
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "problem_type": "regression"}
    text = str(card(config=config, data_format="chat", max_length=300))
    assert "vllm serve me/my-rm --runner pooling --convert classify --max-model-len 300 --dtype float32\n" in text
    assert "--context-length 301 --dtype float32\n" in text
    assert "--max_length 300 --force_truncation --torch_dtype float32 --not_quantized\n" in text
    assert '{"model": "me/my-rm", "input": "p c", "add_special_tokens": false}' in text
    assert 'RewardScorer("me/my-rm", endpoint="http://localhost:8000")' in text
    text = str(card(config=config))
    assert "RewardBench cannot read it as it was trained." in text and "rewardbench --model" not in text


def test_the_metadata_is_what_the_hub_reads(card):
    text = str(card())
    metadata = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "my-rm"
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in results] == [
        ("helpful", "accuracy", 0.731),
        ("helpful", "margin", 1.25),
    ]
    assert metadata["base_model"] == "some/base" and metadata["base_model_relation"] == "finetune"
    assert metadata["datasets"] == ["owner/mine"] and metadata["library_name"] == "transformers"
    again = ModelCard(text)  # raises if the metadata is not valid
    assert again.data.eval_results and again.data.to_dict() == ModelCard(str(again)).data.to_dict()


def test_nothing_of_the_users_machine_is_in_card_or_settings(card):
    settings = RewardModelSettings(lineage=copy.deepcopy(LINEAGE))
    public = public_settings(settings)
    assert "/home" not in str(card()) + json.dumps(public.lineage)
    assert public.lineage[1]["base"] == "grft" and public.lineage[1]["datasets"]["dsp"]["spec"] == "dsp:0.5"
    assert public.lineage[1]["datasets"]["mine"]["spec"]["path"] == "owner/mine"
    assert settings.lineage == LINEAGE  # the user's own settings keep their paths


def test_non_commercial_data_make_a_non_commercial_card(card):
    text = str(card())
    assert "license: cc-by-nc-4.0" in text and "CC BY-NC 4.0 allows no commercial use" in text
    assert "| `mine` | cc-by-4.0 |" in text
    assert "license: apache-2.0" in str(card(license="apache-2.0"))
    free = str(card(lineage=LINEAGE[:1]))
    assert "license:" not in free.split("---\n")[1] and "no commercial use" not in free and "| MIT for" in free


def test_a_stated_license_goes_before_that_of_the_format():
    lineage = copy.deepcopy(LINEAGE)
    lineage[1]["datasets"]["dsp"]["license"] = "apache-2.0"
    licenses = data_licenses(RewardModelSettings(lineage=lineage))
    assert licenses == {"hh": "mit", "`dsp`": "apache-2.0", "`mine`": "cc-by-4.0"}


def test_a_run_without_record_or_results_has_a_card_all_the_same(card):
    text = str(card(results=None, lineage=[], domain=None))
    assert "## Results" not in text and "## Training" not in text and "model-index" not in text
    assert "licences of the training data are not recorded" in text


def test_the_date_of_the_chat_template_is_said(card):
    assert "this one has that of 2026-03-05, on every day" in str(card(data_format="chat", chat_date="2026-03-05"))
    assert "on every day" not in str(card(data_format="chat"))


def test_a_metric_with_nothing_to_count_is_a_dash(card):
    results = copy.deepcopy(RESULTS)
    results["end"]["helpful"] |= {"accuracy": None, "margin": None, "num_pairs": 0}
    text = str(card(results=results))
    assert "| helpful | 0.5000 | – | 0.000 | – | 0 | 3 |" in text and "model-index" not in text


def test_damaged_results_are_named(card, tmp_path):
    card()
    (tmp_path / "final_eval_results.json").write_text("{")
    with pytest.raises(InputError, match=r"final_eval_results\.json cannot be read"):
        card(results=None)


def test_report_and_figures_of_an_evaluation_go_along(card, tmp_path):
    source, target = tmp_path / "evaluation", tmp_path / "staged"
    (source / "figures").mkdir(parents=True)
    (source / "figures" / "margin_histogram.png").write_bytes(b"png")
    (source / "report.md").write_text(
        "![](figures/margin_histogram.png) and/or https://a.b/c/d\n"
        "rm-toolkit evaluate --model a=/home/someone/runs/my-rm --datasets data/x ~/private/out"
    )
    (source / "metrics.json").write_text('{"command": "/home/someone"}')
    figures = stage_evaluation(str(source), target)
    assert figures == ["evaluation/figures/margin_histogram.png"]
    # The report's links still work. The metrics, which contain the command line, are not published.
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*.*")) == [*figures, "evaluation/report.md"]
    assert (target / "evaluation" / "report.md").read_text() == (
        "![](figures/margin_histogram.png) and/or https://a.b/c/d\n"
        "rm-toolkit evaluate --model a=my-rm --datasets data/x out"
    )
    text = str(card(figures=figures, report="evaluation/report.md"))
    assert "![Margin histogram](evaluation/figures/margin_histogram.png)" in text
    assert "[evaluation/report.md](evaluation/report.md)" in text
    with pytest.raises(InputError, match=r"there is no `report\.md`"):
        stage_evaluation(str(tmp_path / "nothing"), target)


def test_only_files_that_loaders_take_up_stand_in_the_way():
    remote = {"README.md", "notes/weights.safetensors", "figure.png", "model.safetensors"}
    check_no_foreign_weights("me/rm", remote, {"model.safetensors"}, [])
    with pytest.raises(InputError, match="adapter_config"):
        check_no_foreign_weights("me/rm", remote | {"adapter_config.json"}, {"model.safetensors"}, [])

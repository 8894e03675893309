"""Many adapters on one base: a batch that mixes them gives the same rewards as separate models."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.models.adapters import quiet_peft
from rm_toolkit.scoring.adapter_routing import AdapterRouting
from rm_toolkit.scoring.scorer import RewardScorer


DOMAINS = ("academy", "business", "entertainment", "literature")


def save_adapter(base, folder, seed, **config):
    """An adapter that looks trained: random A, B and head, in the format that a run saves to `adapter/`."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    defaults = {"r": 4, "lora_alpha": 8 + seed, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
    with quiet_peft():
        adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **{**defaults, **config}))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder)
    shutil.copy(Path(base, "rm_toolkit.json"), folder)
    return str(folder)


@pytest.fixture(scope="module")
def base(reward_model):
    return reward_model()


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(base, root / name, seed) for seed, name in enumerate(DOMAINS)}


@pytest.fixture(scope="module")
def mixed_rows(rows):
    """Prompts whose completions take turns between the domains; every fifth row goes to the base."""
    made = rows.ranked(15, seed=5)
    return {
        "prompts": [row["prompt"] for row in made],
        "completions": [row["completions"] for row in made],
        "domains": [[*DOMAINS, None][number % 5] for number in range(len(made))],
    }


def separate(base, adapters, rows, **options):
    """Rewards from separate models, one per domain, each with its adapter merged."""
    scorers = {
        name: RewardScorer(folder, device="cpu", **options) for name, folder in {**adapters, None: base}.items()
    }
    return [
        scorers[domain].score([prompt], [completions])[0]
        for prompt, completions, domain in zip(rows["prompts"], rows["completions"], rows["domains"])
    ]


def assert_the_same(found, expected, tolerance=1e-5):
    flat = [np.concatenate(values) for values in (found, expected)]
    assert np.ptp(flat[1]) > 0.1
    np.testing.assert_allclose(*flat, atol=tolerance)


@pytest.mark.parametrize("layout", ["shared", "plain"])
def test_one_batch_of_four_domains_gives_the_rewards_of_four_models(base, adapters, mixed_rows, layout, monkeypatch):
    scorer = RewardScorer(base, adapters=adapters, device="cpu")
    assert scorer.routing.mixes
    if layout == "plain":
        scorer._shares = False
    batches = []
    call = AdapterRouting.__call__
    monkeypatch.setattr(AdapterRouting, "__call__", lambda self, batch: batches.append(batch) or call(self, batch))
    found = scorer.score(**mixed_rows)
    assert len(batches) == 1 and len(batches[0].adapter_tokens) == 5
    assert (batches[0].layout is not None) == (layout == "shared")
    expected = separate(base, adapters, mixed_rows)
    assert_the_same(found, expected)
    # The adapters matter: the base alone gives different rewards.
    alone = RewardScorer(base, device="cpu").score(mixed_rows["prompts"], mixed_rows["completions"])
    assert np.abs(np.concatenate(alone) - np.concatenate(expected)).max() > 0.1


def test_one_text_in_every_domain_has_a_reward_of_each(base, adapters, mixed_rows):
    """Equal texts are computed once per domain, not once in total."""
    scorer = RewardScorer(base, adapters=adapters, device="cpu")
    prompt, completion = mixed_rows["prompts"][0], mixed_rows["completions"][0][0]
    rows = {"prompts": [prompt] * 5, "completions": [[completion]] * 5, "domains": [*DOMAINS, None]}
    found = scorer.score(**rows)
    assert_the_same(found, separate(base, adapters, rows))
    assert len({round(reward, 6) for (reward,) in found}) == 5
    assert scorer.best_of_n(prompt, ["a", "b"], domain="literature")[1] == pytest.approx(
        RewardScorer(adapters["literature"], device="cpu").best_of_n(prompt, ["a", "b"])[1], abs=1e-5
    )


def test_batches_of_any_size_and_halves_of_precision(base, adapters, mixed_rows):
    whole = RewardScorer(base, adapters=adapters, device="cpu").score(**mixed_rows)
    small = RewardScorer(base, adapters=adapters, device="cpu", tokens_per_batch=60)
    assert_the_same(small.score(**mixed_rows), whole)
    half = RewardScorer(base, adapters=adapters, device="cpu", dtype=torch.bfloat16)
    assert_the_same(half.score(**mixed_rows), whole, tolerance=0.1 * np.ptp(np.concatenate(whole)))


def test_a_hundred_adapters_from_one_base(base, adapters, rows, tmp_path):
    names = [f"keys.{number}" for number in range(100)]  # names that PEFT's own dictionaries could not hold
    folders = {name: adapters[DOMAINS[number % 4]] for number, name in enumerate(names)}
    scorer = RewardScorer(base, adapters=folders, device="cpu")
    made = rows.pairs(100, seed=6)
    texts = {"prompts": [row["prompt"] for row in made], "completions": [[row["chosen"]] for row in made]}
    found = scorer.score(**texts, domains=names)
    four = RewardScorer(base, adapters=adapters, device="cpu")
    assert_the_same(found, four.score(**texts, domains=[DOMAINS[number % 4] for number in range(100)]))


OTHER_ADAPTERS = {
    "DoRA": {"use_dora": True},
    "another rank, scaling and modules": {"r": 2, "use_rslora": True, "target_modules": ["o_proj"]},
    "the embedding too": {"target_modules": ["q_proj", "embed_tokens"]},
    "norms trained whole": {"modules_to_save": ["norm"]},
}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("config", OTHER_ADAPTERS.values(), ids=OTHER_ADAPTERS.keys())
def test_other_kinds_of_adapters_are_mixed_or_read_one_by_one(base, adapters, mixed_rows, tmp_path, config):
    both = {**adapters, "business": save_adapter(base, tmp_path / "other", 7, **config)}
    scorer = RewardScorer(base, adapters=both, device="cpu")
    assert scorer.routing.mixes == ("r" in config)
    assert_the_same(scorer.score(**mixed_rows), separate(base, both, mixed_rows))


def test_layers_that_get_other_tokens_are_found_by_the_trial(base, adapters, mixed_rows, monkeypatch):
    """Like an expert, the layer sees only some of the tokens. The trial must notice, and rewards must stay correct."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward

    def halves(self, x):
        middle = x.shape[1] // 2
        return torch.cat([forward(self, x[:, :middle]), forward(self, x[:, middle:])], dim=1)

    expected = separate(base, adapters, mixed_rows)
    monkeypatch.setattr(LlamaMLP, "forward", halves)
    scorer = RewardScorer(base, adapters=adapters, device="cpu")
    assert not scorer.routing.mixes
    assert_the_same(scorer.score(**mixed_rows), expected)


@pytest.mark.parametrize("pooling_type", ["cls", "average"])
def test_an_encoder_with_adapters(make_trainer, base_encoder, rows, tmp_path, pooling_type):
    """With `cls`, the pooler is trained too, so each adapter is computed separately; `average` is mixed."""
    pairs = rows.pairs(8)
    general = make_trainer(pairs, base_encoder("bert"), pooling_type=pooling_type, output_dir=str(tmp_path / "g"))
    general.save_model()
    adapters = {}
    for seed, name in enumerate(DOMAINS[:2]):
        trainer = make_trainer(
            rows.pairs(8, seed=seed),
            str(tmp_path / "g"),
            peft_config=LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False),
            pooling_type=pooling_type,
            output_dir=str(tmp_path / name),
            learning_rate=0.1,
        )
        trainer.train()
        trainer.save_model()
        adapters[name] = str(tmp_path / name / "adapter")
    made = {"prompts": ["river ", "stone ", "lantern "] * 6, "completions": [["garden", "letter."]] * 18}
    made["domains"] = [[*adapters, None][number % 3] for number in range(18)]
    scorer = RewardScorer(str(tmp_path / "g"), adapters=adapters, device="cpu")
    assert scorer.routing.mixes == (pooling_type == "average")
    assert_the_same(scorer.score(**made), separate(str(tmp_path / "g"), adapters, made))


def test_adapters_of_a_run_by_flags_are_scored_by_the_command(base, adapters, mixed_rows, tmp_path, capsys):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"prompt": prompt, "completions": completions, "for": domain}
        for prompt, completions, domain in zip(*mixed_rows.values())
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["score", "--model", base, "--input", str(source), "--device", "cpu", "--output"]
    pairs = [part for name, folder in adapters.items() for part in ("--adapter", f"{name}={folder}")]
    assert main([*flags, str(output), *pairs, "--domain-column", "for"]) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row.pop("reward") and row for row in found] == rows
    rewards = [json.loads(line)["reward"] for line in output.read_text().splitlines()]
    assert_the_same(rewards, separate(base, adapters, mixed_rows))
    assert main([*flags, str(tmp_path / "one.jsonl"), *pairs, "--domain", "business"]) == 0
    one = [json.loads(line)["reward"] for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert_the_same(one, separate(base, adapters, {**mixed_rows, "domains": ["business"] * len(rows)}))
    source.write_text(json.dumps({**rows[0], "for": "litterature"}))
    assert main([*flags, str(tmp_path / "bad.jsonl"), *pairs, "--domain-column", "for"]) == 2
    assert "line 1: the domain 'litterature' has no adapter" in (error := capsys.readouterr().err)
    assert "Did you mean 'literature'?" in error


def edit(folder, target, name="adapter_config.json", **changes):
    shutil.copytree(folder, target)
    values = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps({**values, **changes}))
    return str(target)


def test_an_adapter_that_does_not_belong_is_refused(base, adapters, base_model, tmp_path, caplog):
    one = adapters["business"]
    shutil.copytree(one, tmp_path / "run" / "adapter")
    cases = {
        str(tmp_path / "run"): r"has no adapter .*run/adapter' is one\.",
        edit(one, tmp_path / "1", base_model_name_or_path=base_model()): "was trained on '.*', not on '.*'",
        edit(one, tmp_path / "2", bias="all"): "trained with `bias` 'all'",
        edit(one, tmp_path / "3", "rm_toolkit.json", max_length=64): "`max_length` of '.*' is 64, the base's is 128",
        edit(one, tmp_path / "4", r=8): "does not fit the base .*adapter_config",
    }
    for folder, message in cases.items():
        with pytest.raises(InputError, match=message):
            RewardScorer(base, adapters={"a": folder}, device="cpu")
    # If the base was moved, its name cannot be compared: it is used with a notice.
    moved = edit(one, tmp_path / "5", base_model_name_or_path="outputs/elsewhere")
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        RewardScorer(base, adapters={"a": moved}, device="cpu")
    logging.getLogger("transformers").propagate = False
    scorer = RewardScorer(base, adapters=adapters, device="cpu")
    with pytest.raises(InputError, match="the domain 'law' has no adapter; there are 'academy', 'business'"):
        scorer.score(["a"], ["b"], domains=["law"])


def test_the_reward_function_reads_the_domain_from_its_column(base, adapters, mixed_rows):
    scorer = RewardScorer(base, adapters=adapters, device="cpu")
    reward = scorer.as_reward_function(domain_column="kind")
    texts = [completions[0] for completions in mixed_rows["completions"]]
    found = reward(prompts=mixed_rows["prompts"], completions=texts, kind=mixed_rows["domains"], completion_ids=None)
    assert found == pytest.approx(scorer.score(mixed_rows["prompts"], texts, domains=mixed_rows["domains"]), abs=1e-6)

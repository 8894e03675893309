"""A loss that is not finite ends the run in that step and names its rows; such weights end it before step 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from faulty_runs import at, build, in_child, train_to_end
from safetensors.torch import load_file, save_file
from trl import ModelConfig

from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer
from rm_toolkit.training.manifest import checkpoints, find_damage
from rm_toolkit.training.sft import BaseLmConfig, load_base_lm


POISON = "violin"


@pytest.fixture
def poisoned(rows):
    """Nine good rows and row 7, the only one with a word whose embedding is spoiled."""
    clean = [row for row in rows.pairs(60) if not any(POISON in row[key].lower() for key in row)][:9]
    bad = {
        **clean[0],
        "prompt": "## Human:\nWhich one?\n\n## Assistant:\n",
        "chosen": f"The {POISON} {POISON} of course.",
    }
    data = clean[:7] + [bad] + clean[7:]
    return [{**row, "prompt_id": f"id-{number}", "source": "toy"} for number, row in enumerate(data)]


def poison(trainer, value=float("nan")):
    """Spoils the embedding of tokens that occur only in that row."""
    data = trainer.train_data
    bad = data.better[data.row == 7][0]
    others = {int(k) for n in range(data.num_sequences) if n != bad for k in data.sequence(n)}
    only = [int(k) for k in data.sequence(bad) if int(k) not in others]
    assert only
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight[only] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("lm_loss_coef", [0.0, 0.3])
def test_the_run_ends_in_the_step_and_names_the_row(make_trainer, poisoned, tmp_path, value, lm_loss_coef):
    trainer = make_trainer(
        poisoned,
        pairs_per_step=2,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        lm_loss_coef=lm_loss_coef,
        batch_layout="plain",
        num_train_epochs=1,
    )
    poison(trainer, value)
    before = {}

    def remember():
        before.update({name: weight.clone() for name, weight in trainer.model.state_dict().items()})

    for step in range(5):
        trainer.add_callback(at(step, "on_step_begin", remember))
    with pytest.raises(InputError) as error:
        trainer.train()
    text, step = str(error.value), trainer.state.global_step
    assert (
        f"the loss of step {step + 1} is" in text
        and "It comes from row(s) 7 (prompt_id 'id-7', source 'toy'): '## Human:" in text
    )
    assert "Which one?" in text and "row(s) 7" in text and "; and" not in text
    assert text.count("prompt_id") == 1, "rows that are good are named too"
    expected = (
        f"The last good checkpoint is {tmp_path / 'run' / f'checkpoint-{step}'}" if step else "no checkpoint yet"
    )
    assert expected in text
    assert list(checkpoints(tmp_path / "run")) == list(range(1, step + 1))
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight.nan_to_num(), before[name].nan_to_num()), "the step was applied"


def test_in_the_shared_layout_the_rows_of_the_micro_batch_are_named(make_trainer, poisoned):
    trainer = make_trainer(poisoned, batch_layout="shared", pairs_per_step=10, per_device_train_batch_size=5)
    poison(trainer)
    with pytest.raises(InputError, match=r"row\(s\) .*7 \(prompt_id 'id-7'"):
        trainer.train()


def test_a_gradient_that_is_no_number_ends_the_run_too(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), pairs_per_step=2, per_device_train_batch_size=2)
    trainer.model.base_classifier.score.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with pytest.raises(
        InputError, match=r"the gradient norm of step 1 is not finite|the gradient norm of step 1 is (nan|inf)"
    ):
        trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_a_finite_loss_is_no_matter(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), learning_rate=1.0, num_train_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_one_check_a_step_reads_the_device_once(make_trainer, rows, monkeypatch):
    """This holds for any number of micro-batches in a step."""
    from rm_toolkit.training import meter

    calls = []
    original = meter.agree
    monkeypatch.setattr(meter, "agree", lambda *args: calls.append(1) or original(*args))
    trainer = make_trainer(rows.pairs(8), pairs_per_step=8, per_device_train_batch_size=1, num_train_epochs=2)
    trainer.train()
    assert len(calls) == trainer.state.global_step == 2


def test_all_processes_end_and_the_first_one_names_the_row_of_the_other(base_model, poisoned, tmp_path, capfd):
    options = {"pairs_per_step": 10, "per_device_train_batch_size": 1, "save_strategy": "no", "eval_strategy": "no"}
    data = {"train": poisoned, "pairs": poisoned[:2]}

    def run():
        trainer = build(tmp_path, base_model(), data, {**options, "eval_on_start": False})
        poison(trainer)
        trainer.train()

    assert in_child(run, 2) == [2, 2]
    printed = capfd.readouterr().err
    assert printed.count("error: the loss of step 1") == 1 and "row(s) 7 (prompt_id 'id-7'" in printed
    assert "Traceback" not in printed


def test_the_last_good_checkpoint_is_whole(base_model, poisoned, tmp_path):
    options = {"pairs_per_step": 2, "save_steps": 1, "eval_strategy": "no", "eval_on_start": False}
    data = {"train": poisoned, "pairs": poisoned[:2]}

    def run():
        trainer = build(tmp_path, base_model(), data, options)
        trainer.add_callback(
            at(3, "on_step_begin", lambda: trainer.model.base_classifier.score.weight.data.fill_(1e38))
        )
        trainer.train()

    assert in_child(run) == [2]
    assert list(checkpoints(tmp_path)) == [1, 2, 3]
    assert find_damage(tmp_path / "checkpoint-3") is None
    assert in_child(train_to_end(Path(tmp_path), base_model(), data, options)) == [0]


def test_a_base_with_weights_that_are_not_finite_is_refused_before_the_first_step(
    base_model, make_trainer, rows, tmp_path
):
    folder = tmp_path / "base"
    shutil.copytree(base_model(), folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"the weights of '.*base' are not finite \(NaN or inf\): .*q_proj\.weight"
    with pytest.raises(InputError, match=message):
        make_trainer(rows.pairs(4), str(folder))
    config = BaseLmConfig(output_dir=str(tmp_path / "out"), use_cpu=True)
    with pytest.raises(InputError, match=message):
        load_base_lm(ModelConfig(str(folder)), config, load_tokenizer(str(folder)))

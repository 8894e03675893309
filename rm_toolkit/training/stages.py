"""What the recipes of all stages share: data, base model, trainer, the run, and the summary at its end."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from datasets import Dataset, IterableDataset, concatenate_datasets
from trl import ModelConfig, get_peft_config

from ..batches.replay_plan import replayed_per_step
from ..data.id_rows import check_one_kind, id_columns
from ..data.leakage import check_overlap
from ..data.mixture import load_datasets
from ..data.pairs import ranked_to_pairs, with_same_messages
from ..data.streams import mix_streams
from ..errors import InputError
from ..models.adapter_files import is_adapter, tokenizer_source
from ..models.loading import load_config
from ..models.settings import RewardModelSettings, load_settings
from ..models.tokenizer import load_tokenizer
from ..output.console import console, print_table
from .config import RewardModelConfig
from .engines import read_engine
from .kernels import describe_kernels
from .quantization_flags import quantization_config
from .recipe import RecipeArguments
from .refused import readable_data, refusals_located
from .resume_from import goes_on
from .run_content import describe_content
from .run_files import clear_output_dir
from .run_record import lineage_entry
from .stage_streams import amount_of_data, are_streams, report_overlap, watch_overlap
from .trainer import RewardModelTrainer


FEW_PAIRS = 30  # the 95% interval of an accuracy of .5 is then ± .18


def load_stage_data(
    recipe: RecipeArguments, training: RewardModelConfig
) -> tuple[dict[str, Dataset], dict[str, Dataset], dict[str, Dataset]]:
    """
    Loads the named training sets, test sets and sets to replay, and checks that no prompt is in both training and test
    sets.

    Returns:
        `tuple`: Training sets, test sets, and sets to replay (none if `general_replay_fraction` is 0), by name.

    Raises:
        `InputError`: if there is nothing to train on, a set cannot be loaded, or a prompt is in both training and test
            sets.
    """
    if not recipe.train_datasets:
        raise InputError("`train_datasets` is empty; name at least one: --train_datasets NAME=PATH")
    loaded = []
    options = {"seed": training.seed, "cache_dir": recipe.dataset_cache_dir, "format": training.data_format}
    # The main process fills the cache of datasets; the others read it.
    with PartialState().main_process_first():
        # The base-LM stage has no replay.
        replayed = (recipe.replay_datasets or {}) if getattr(training, "general_replay_fraction", 0) else {}
        for specs, split, streaming in (
            (recipe.train_datasets, "train", recipe.dataset_streaming),
            (recipe.eval_datasets or {}, "test", False),
            (replayed, "train", False),
        ):
            loaded.append(
                load_datasets(specs, split, num_proc=training.dataset_num_proc, streaming=streaming, **options)
            )
    train, evaluation, replay = loaded
    if not are_streams(train):
        seen = {**train, **{f"{name} (replayed)": dataset for name, dataset in replay.items()}}
        check_overlap(seen, evaluation, allow_overlap=recipe.allow_overlap)
    return train, evaluation, replay


def mix(datasets: dict[str, Dataset], seed: int = 0) -> Dataset | IterableDataset:
    """
    Concatenates training sets. If pairs and ranked rows are mixed, all become pairs.

    Args:
        datasets (`dict[str, Dataset]`): From [`load_stage_data`].
        seed (`int`): Seed of the mixture of streams.
    """
    check_one_kind(datasets)
    parts = list(datasets.values())
    if are_streams(datasets):
        return mix_streams(datasets, seed)
    if id_columns(parts[0].column_names):
        return concatenate_datasets(parts)
    ranked = ["completions" in part.column_names for part in parts]
    if any(ranked) and not all(ranked):
        parts = [ranked_to_pairs(part) if is_ranked else part for part, is_ranked in zip(parts, ranked)]
    return concatenate_datasets(with_same_messages(parts)) if len(parts) > 1 else parts[0]


def build_trainer(
    recipe: RecipeArguments,
    training: RewardModelConfig,
    model: ModelConfig,
    train: dict[str, Dataset],
    evaluation: dict[str, Dataset],
    replay: dict[str, Dataset] | None = None,
    *,
    stage: str,
) -> RewardModelTrainer:
    """
    Creates the trainer of a stage. Customized fine-tuning (`crft`) needs a base with a reward head.

    Args:
        recipe, training, model: From [`~rm_toolkit.training.recipe.parse_recipe`].
        train, evaluation, replay (`dict[str, Dataset]`): From [`load_stage_data`].
        stage (`str`): `"grft"` or `"crft"`.
    """
    name = model.model_name_or_path
    if not name:
        raise InputError("`model_name_or_path` is not set; give a folder or a Hub id.")
    trust_remote_code = training.trust_remote_code or getattr(model, "trust_remote_code", False)
    if not is_adapter(name, model.model_revision):  # first: a wrong path is the model's error
        load_config(name, revision=model.model_revision, trust_remote_code=trust_remote_code)
    tokenizer, revision = recipe.tokenizer_name_or_path, None
    if not tokenizer:
        tokenizer, revision = tokenizer_source(name, model.model_revision)
    reader = load_tokenizer(tokenizer, revision=revision, trust_remote_code=trust_remote_code)
    train, evaluation, replay = readable_data(recipe, (train, evaluation, replay or {}), reader, training.data_format)
    before = load_settings(name, model.model_revision)
    settings = RewardModelSettings(
        stage=stage,
        domain=recipe.domain,
        lineage=[
            *(before.lineage if before else []),
            lineage_entry(stage, recipe, training, model, name, train, evaluation, replay or {}),
        ],
    )
    training.model_init_kwargs = {**_loading_options(model, training), **(training.model_init_kwargs or {})}
    training.trust_remote_code = trust_remote_code
    with refusals_located(recipe):
        trainer = RewardModelTrainer(
            name,
            training,
            mix(train, training.seed),
            evaluation or None,
            processing_class=reader,
            peft_config=get_peft_config(model),
            replay_dataset=mix(replay) if replay else None,
            require_head=stage == "crft" and not recipe.allow_new_head,
            settings=settings,
        )
    trainer.data_content = describe_content(settings.lineage[-1])
    if are_streams(train):
        watch_overlap(trainer, train, evaluation, recipe.allow_overlap)
    return trainer


def _loading_options(model: ModelConfig, training: RewardModelConfig) -> dict[str, Any]:
    """The loading options of the base in TRL's flags."""
    # The optimizer works on fp32 weights, TRL's default; bf16 means autocast (see RewardModelConfig.bf16).
    init = {"attn_implementation": model.attn_implementation, "revision": model.model_revision}
    if model.dtype not in (None, "float32"):
        init["dtype"] = model.dtype
    if (quantization := quantization_config(model, training)) is not None:
        init["quantization_config"] = quantization
    return init


def run_stage(trainer: RewardModelTrainer, recipe: RecipeArguments, resume: str | None) -> None:
    """
    Trains, saves, checks the saved model in a fresh process, writes the results and prints them.

    Args:
        trainer (`RewardModelTrainer`): From [`build_trainer`].
        recipe (`RecipeArguments`): Its settings for the summary at the end.
        resume (`str`, *optional*): Checkpoint folder to resume from.
    """
    if not resume and (recipe.overwrite_output_dir or goes_on(trainer.args, resume)):
        clear_output_dir(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        console.print(describe_engine(trainer))
    trainer.train(resume_from_checkpoint=resume)
    report_overlap(trainer)
    if trainer.eval_dataset and trainer.evaluated_step() != trainer.state.global_step:
        trainer.evaluate()
    trainer.save_model(_internal_call=True)  # published below, after the results are written
    checked = trainer.reload_check()
    results = trainer.save_results()
    if trainer.is_world_process_zero():
        print_results(trainer.args.output_dir, results, checked)
    if trainer.args.push_to_hub:
        address = trainer.publish()
        if address:
            console.print(f"Pushed to {address}")
    if recipe.next_command and trainer.is_world_process_zero():
        console.print(f"Next: {recipe.next_command}")


def print_results(folder: str, results: dict[str, dict[str, dict[str, float]]], checked: int) -> None:
    """
    Prints the accuracies before and after training, and the folder of the model.

    Args:
        folder (`str`): Folder of the saved model.
        results (`dict`): From `save_results`.
        checked (`int`): Number of texts in the reload check.
    """
    rows = [
        [
            name,
            *(f"{results[when][name]['accuracy']:.4f}" if name in results[when] else "-" for when in ("start", "end")),
            str(end["num_pairs"]),
        ]
        for name, end in results["end"].items()
    ]
    if rows:
        print_table(["test set", "accuracy before", "after", "pairs"], rows)
    few = [name for name, end in results["end"].items() if end["num_pairs"] < FEW_PAIRS]
    if few:
        console.print(f"Fewer than {FEW_PAIRS} pairs tell little about accuracy: {', '.join(few)}.")
    console.print(f"Saved to {folder}; {checked} texts give the same rewards in a fresh process.")


def describe_engine(trainer: RewardModelTrainer) -> str:
    """
    Prints what really runs, read from the accelerator: a launch config can silently turn into something else.

    Args:
        trainer (`RewardModelTrainer`): The trainer.
    """
    amount = f"{amount_of_data(trainer)}, {trainer.pairs_per_step} per step{_replay_note(trainer)}"
    attention = f"layout {trainer.batch_layout}, attention by {trainer.attention}"
    return (
        f"{read_engine(trainer.accelerator)}{describe_kernels(trainer.args, trainer.copies)}; {attention}; {amount}."
    )


def _replay_note(trainer: RewardModelTrainer) -> str:
    if trainer.replay_data is None:
        return ""
    count = replayed_per_step(trainer.pairs_per_step, trainer.args.general_replay_fraction)
    return f", {count} of them replayed from {len(trainer.replay_data):,} general pairs"

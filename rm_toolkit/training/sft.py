"""The base-LM stage: language modelling on the good texts of preference data, by TRL's SFTTrainer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

from ..batches.tokenization import TokenizedPreferences, tokenize_preferences
from ..errors import InputError
from ..models.finite_weights import check_finite_weights
from ..models.folder_checks import read_checked
from ..models.hub_files import recorded_revision
from ..models.load_errors import incomplete_error, weights_error
from ..models.loading import load_config, quiet_loading
from ..models.precision import WEIGHT_DTYPE
from ..models.saving import moved_into
from ..models.settings import DATA_FORMATS
from ..models.weight_checks import check_weights
from ..output.console import console, print_table
from ..output.progress import say
from ..output.ranges import Choice
from ..output.written import record_written
from .best_model import check_best_metric
from .chat_date import DatedConfig
from .checkpoints import Checkpoints
from .disk_errors import named_disk_errors
from .display import RunProgressCallback, describe_truncation
from .engines import BiasCorrectionCallback, EngineHooks, LaunchedConfig, read_engine
from .recipe import RecipeArguments
from .run_files import RecordReports, begin_run
from .setting_ranges import TEXT_LENGTH, check_settings, setting_ranges
from .upstream import BaseLmHooks, for_this_call


OF_ALL_SETS = ("mean_token_accuracy", "entropy", "num_tokens")  # as TRL's SFTTrainer logs them
SFT_TEXTS = ("best", "all")


@dataclass
class BaseLmArguments(RecipeArguments):
    """Settings of `recipes/sft.py` besides the trainer's and the model's."""

    sft_texts: Annotated[str, Choice(SFT_TEXTS)] = field(
        default="best",
        metadata={
            "help": "'best': the texts that count for the LM loss of a reward model (score / best score above 0.85). "
            "'all': every text, for pretraining on little data."
        },
    )

    def __post_init__(self):
        setting_ranges(type(self))["sft_texts"].check("sft_texts", self.sft_texts)


@dataclass
class BaseLmConfig(DatedConfig, LaunchedConfig, SFTConfig):
    """
    TRL's `SFTConfig`. Defaults that differ: `bf16` only if the device has it, loss on the whole text, 512 tokens.
    """

    max_length: Annotated[int, TEXT_LENGTH] = field(
        default=512, metadata={"help": "Most tokens per text; longer texts are cut at their beginning."}
    )
    completion_only_loss: bool = field(
        default=False, metadata={"help": "Compute the loss on the response only. Off: on the whole text."}
    )
    data_format: Annotated[str, Choice(DATA_FORMATS)] = field(
        default="text", metadata={"help": "'text' or 'chat', as in the other recipes."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "bf16 autocast. If not set: True where a GPU supports it, False on a CPU."}
    )

    def __post_init__(self):
        check_settings(self)
        super().__post_init__()
        self.dataloader_pin_memory &= self.device.type != "cpu"


class SealCheckpoints(TrainerCallback):
    """
    Declares each checkpoint complete, so that `auto` finds it; one interrupted while it was written is not.

    Args:
        checkpoints (`Checkpoints`): Those of the run.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def on_save(self, args, state, control, **kwargs):
        """All processes write their part before one of them lists and hashes the files."""
        PartialState().wait_for_everyone()
        self.checkpoints.seal(state.global_step, self.checkpoints.seen_by_all(state.global_step))


class BaseLmTrainer(EngineHooks, BaseLmHooks):
    """TRL's SFTTrainer with this toolkit's progress lines; saves no pickled arguments and no generic card."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_best_metric(
            self.args, self.eval_dataset, self.callback_handler.callbacks, metrics=("loss",), of_all_sets=OF_ALL_SETS
        )
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        self.checkpoints = Checkpoints(
            self.args.output_dir,
            saves=self.args.should_save,
            num_processes=self.accelerator.num_processes,
            on_each_machine=self.args.save_on_each_node,
        )
        progress = RunProgressCallback(show_bar=not self.args.disable_tqdm)
        seal = SealCheckpoints(self.checkpoints)
        for callback in (BiasCorrectionCallback(), progress, RecordReports(self.args.output_dir), seal):
            self.add_callback(callback)

    def begin_checkpoint(self) -> None:
        """Lists the folder as the run's before any process creates it: otherwise it would count as foreign."""
        self.checkpoints.begin(self.state.global_step)
        self.accelerator.wait_for_everyone()

    def save_weights(self, folder: str, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the model and its tokenizer atomically, on the process that saves."""
        if not self.args.should_save:
            return
        with moved_into(Path(folder)) as temporary:
            with quiet_loading():
                self.write_weights(str(temporary), state_dict)
            (temporary / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def load_base_lm(model: ModelConfig, config: BaseLmConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """
    Loads a causal LM in fp32, with an embedding for every token of the tokenizer.

    Args:
        model (`ModelConfig`): Name or path, revision, attention implementation, quantization.
        config (`BaseLmConfig`): Its `trust_remote_code`.
        tokenizer (`PreTrainedTokenizerBase`): From [`~rm_toolkit.models.tokenizer.prepare_tokenizer`].

    Raises:
        `InputError`: if there is no causal LM with that name, or one of its files cannot be read.
    """
    name, init = model.model_name_or_path, {"revision": model.model_revision}
    read_checked(name, "generation_config.json", model.model_revision)
    init["trust_remote_code"] = config.trust_remote_code
    described = load_config(name, **init)
    check_weights(name, described, model.model_revision)
    quantization = get_quantization_config(model)
    if quantization is not None:
        init["quantization_config"] = quantization
    if model.attn_implementation:
        init["attn_implementation"] = model.attn_implementation
    try:
        with quiet_loading():
            loaded, info = AutoModelForCausalLM.from_pretrained(
                name, dtype=WEIGHT_DTYPE, use_safetensors=True, output_loading_info=True, **init
            )
    except Exception as error:  # each architecture raises its own errors
        raise InputError(weights_error(name, described, error, "causal LM")) from error
    _check_complete(name, loaded, info["missing_keys"])
    check_finite_weights(loaded, name)
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        with quiet_loading():
            loaded.resize_token_embeddings(len(tokenizer))
    return loaded


def _check_complete(name: str, loaded: PreTrainedModel, missing: Iterable[str]) -> None:
    """Refuses a checkpoint that lacks more than the head: missing weights would be random."""
    head = next((key for key, part in loaded.named_modules() if part is loaded.get_output_embeddings()), "lm_head")
    other = sorted(key for key in missing if not key.startswith(f"{head}."))
    if other:
        raise InputError(incomplete_error(name, other))


def adapter_config(model: ModelConfig) -> PeftConfig | None:
    """Returns the adapter config of the flags, with the revision of its base."""
    config = get_peft_config(model)
    if config is not None:
        config.revision = recorded_revision(model.model_name_or_path, model.model_revision)
    return config


def language_modeling_rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, arguments: BaseLmArguments, config: BaseLmConfig, name: str
) -> Dataset:
    """
    Token ids of the distinct texts of a preference dataset, with EOS at the end.

    Args:
        dataset (`datasets.Dataset`): Pairs or ranked rows.
        tokenizer (`PreTrainedTokenizerBase`): From [`~rm_toolkit.models.tokenizer.prepare_tokenizer`].
        arguments (`BaseLmArguments`): Which texts to use.
        config (`BaseLmConfig`): How many tokens per text, and which ones have a loss.
        name (`str`): Name of the dataset, for messages.

    Returns:
        `datasets.Dataset`: Columns `input_ids` and `completion_mask` (1 where a loss is computed).
    """
    data = tokenize_preferences(
        dataset,
        tokenizer,
        max_length=config.max_length - 1,  # EOS is added
        data_format=config.data_format,
        lm_target_eos=True,
        name=name,
        find_completions=config.completion_only_loss,
    )
    if data.num_truncated and config.should_log:
        say(describe_truncation(data, config.max_length - 1))
    numbers = _chosen_texts(data, arguments.sft_texts)
    ids = [data.sequence(k).tolist() for k in numbers]
    starts = data.completion_start[numbers].tolist()
    if data.lm_target_eos is not None:
        ids = [text if text[-1] == data.lm_target_eos else [*text, data.lm_target_eos] for text in ids]
    mask = [[0] * start + [1] * (len(text) - start) for text, start in zip(ids, starts)]
    return Dataset.from_dict({"input_ids": ids, "completion_mask": mask})


def run_base_lm(trainer: SFTTrainer, resume: str | None) -> None:
    """
    Trains, saves, and prints the loss of each test set before and after.

    Args:
        trainer (`SFTTrainer`): Trainer on rows of [`language_modeling_rows`].
        resume (`str`, *optional*): Checkpoint folder to resume from.
    """
    if trainer.is_world_process_zero():
        console.print(f"{read_engine(trainer.accelerator)}; {len(trainer.train_dataset):,} texts.")
    # Inside `train`: before it, DeepSpeed would be set up for evaluation only, and fail on the batch size.
    at_start = for_this_call(trainer.args, eval_on_start=bool(trainer.eval_dataset) and not resume)
    if trainer.args.should_save:
        begin_run(trainer.args.output_dir)
    with at_start, named_disk_errors(trainer.args.output_dir):
        trainer.train(resume_from_checkpoint=resume)
    logs = trainer.state.log_history
    before = {key: value for log in logs if log["step"] == 0 for key, value in log.items() if key.startswith("eval_")}
    after = trainer.evaluate() if trainer.eval_dataset else {}
    trainer.save_model()
    if trainer.args.should_save:
        record_written(trainer.args.output_dir, ["trainer_state.json"])
    trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    rows = []
    for key in [key for key in after if key.endswith("_loss")]:
        values = [values.get(key, math.nan) for values in (before, after)]
        name = key.removeprefix("eval_").removesuffix("loss").rstrip("_") or "eval"
        rows.append([name, *(f"{v:.4f}" for v in values), *(f"{math.exp(v):.1f}" for v in values)])
    if rows:
        print_table(["test set", "loss before", "after", "perplexity before", "after"], rows)
    console.print(f"Saved to {trainer.args.output_dir}")


def _chosen_texts(data: TokenizedPreferences, which: str) -> list[int]:
    if which == "all":
        return list(range(data.num_sequences))
    return sorted({*data.better[data.lm_better].tolist(), *data.worse[data.lm_worse].tolist()})

"""What a resumed run may change: every setting of a run in one table."""

from __future__ import annotations

from dataclasses import dataclass


REFUSED = "refused"
ACCEPTED = "accepted"  # with `allow_changed_settings`
SAID = "said"
IGNORED = "ignored"


@dataclass(frozen=True)
class Rule:
    """
    What happens if a setting differs from the checkpoint's.

    Args:
        kind (`str`): `REFUSED`, `ACCEPTED` (with `allow_changed_settings`, and recorded), `SAID` (and recorded) or `IGNORED`.
        why (`str`): Reason of a refusal, for the message.
        compared_as (`str`, *optional*): The entry that this setting is compared in, if it has another name.
    """

    kind: str
    why: str = ""
    compared_as: str | None = None


RULES: dict[str, Rule] = {}


def _add(kind: str, names: str, why: str = "") -> None:
    RULES.update({name: Rule(kind, why) for name in names.split()})


def _compared_as(entry: str, names: str) -> None:
    RULES.update({name: Rule(RULES[entry].kind, RULES[entry].why, entry) for name in names.split()})


# ---- refused, even with `allow_changed_settings` ----

_ORDER = "the place in the data is counted in steps of the old data and order"
_add(REFUSED, "train_data train_tokens replay_data replay_tokens", _ORDER)
_add(REFUSED, "seed data_seed pairs_per_step group_by_prompt general_replay_fraction shuffle_buffer_size", _ORDER)
_add(REFUSED, "plan_version", "a run keeps its rule for splitting pairs over processes")
_add(REFUSED, "train_sampling_strategy dataloader_drop_last dataloader_in_order ignore_data_skip", _ORDER)
_OBJECTIVE = "one run has one objective"
_add(REFUSED, "stage domain lm_loss_coef lm_score_threshold lm_loss_on pair_weighting anchor_coef", _OBJECTIVE)
_add(REFUSED, "center_rewards_coefficient label_smoothing_factor neftune_noise_alpha disable_dropout", _OBJECTIVE)
_MODEL = "the weights in the checkpoint are for the old one"
_add(REFUSED, "base_files base_weights base_options adapter quantization", _MODEL)
_OPTIMIZER = "the optimizer's state in the checkpoint is for the old one"
_add(REFUSED, "optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon", _OPTIMIZER)
_add(REFUSED, "head_learning_rate max_grad_norm given_optimizer given_scheduler", _OPTIMIZER)
_READING = "the model has learned to read texts in the old way"
_add(REFUSED, "pooling_type data_format max_length pools_eos chat_date", _READING)
_add(
    REFUSED,
    "eval_data eval_tokens",
    "results before and after training would be for different rows; give the set a new name",
)
_add(REFUSED, "eval_curve_fraction", "the curve before and after would be for different rows")
# Of the base-LM stage.
_add(REFUSED, "sft_texts completion_only_loss assistant_only_loss loss_type router_aux_loss_coef", _OBJECTIVE)
_add(REFUSED, "average_tokens_across_devices", _OBJECTIVE)
_add(REFUSED, "packing packing_strategy padding_free shuffle_dataset dataset_text_field dataset_kwargs", _ORDER)
_add(REFUSED, "truncation_mode chat_template_path eos_token pad_token", _READING)

# ---- accepted with `allow_changed_settings`, from the checkpoint's step on ----

_add(ACCEPTED, "total_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps")
_add(ACCEPTED, "precision tf32")
_add(ACCEPTED, "eval_sets best_model restore_callback_states_from_checkpoint")

# ---- reported and recorded: the same training, up to rounding of sums and random draws of dropout ----

_add(SAID, "num_processes micro_batch batch_layout padding_side pad_to_multiple_of auto_find_batch_size")
_add(SAID, "device engine attention threads full_determinism use_liger_kernel liger_kernel_config")
_add(
    SAID, "torch_compile torch_compile_backend torch_compile_mode activation_offloading bf16_full_eval fp16_full_eval"
)
_add(SAID, "rm_toolkit torch transformers trl accelerate datasets peft")

# ---- ignored: how a run is shown, saved and loaded, paths, and settings without effect here ----

_add(
    IGNORED,
    "output_dir overwrite_output_dir resume_from_checkpoint allow_changed_settings dataset_cache_dir next_command "
    "allow_overlap allow_new_head do_train do_eval do_predict local_rank trust_remote_code merge_adapter",
)
_add(
    IGNORED,
    "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level "
    "log_level_replica include_num_input_tokens_seen disable_tqdm report_to run_name project trackio_space_id "
    "trackio_bucket_id trackio_static_space_id debug skip_memory_metrics include_for_metrics batch_eval_metrics",
)
_add(
    IGNORED,
    "save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub "
    "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
)
_add(
    IGNORED,
    "eval_strategy eval_steps eval_delay eval_on_start eval_at_start per_device_eval_batch_size eval_accumulation_steps "
    "eval_do_concat_batches eval_use_gather_object prediction_loss_only eval_packing",
)
_add(
    IGNORED,
    "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs "
    "use_cache torch_empty_cache_steps dataset_num_proc dataloader_num_workers dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context remove_unused_columns "
    "label_names length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
    "ddp_timeout dtype",
)

# ---- settings that are compared by their result ----

_compared_as("total_steps", "max_steps num_train_epochs")
_compared_as("precision", "bf16 fp16")
_compared_as("best_model", "load_best_model_at_end metric_for_best_model greater_is_better")
_compared_as("micro_batch", "per_device_train_batch_size gradient_accumulation_steps max_tokens_per_batch")
_compared_as("device", "use_cpu")
_compared_as("engine", "accelerator_config parallelism_config fsdp fsdp_config deepspeed ddp_backend")
_compared_as("threads", "cpu_threads")
_compared_as("attention", "attn_implementation")
_compared_as("base_options", "model_init_kwargs")
_compared_as("base_files", "model_name_or_path model_revision tiny_base")
_compared_as("train_data", "train_datasets dataset_streaming")
_compared_as("replay_data", "replay_datasets")
_compared_as("eval_data", "eval_datasets")
_compared_as("train_tokens", "tokenizer_name_or_path")
_compared_as("adapter", "use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters")
_compared_as("adapter", "lora_modules_to_save lora_task_type use_rslora use_dora")
_compared_as(
    "quantization", "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage"
)

# Names in messages, for entries whose own names are unclear.
LABELS = {
    "train_data": "training data",
    "train_tokens": "token ids of the training data",
    "replay_data": "replayed data",
    "replay_tokens": "token ids of the replayed data",
    "eval_data": "test set",
    "eval_tokens": "token ids of the test set",
    "eval_sets": "test sets",
    "base_files": "base model",
    "base_weights": "base model in memory",
    "base_options": "model_init_kwargs",
    "total_steps": "steps of the run",
    "best_model": "choice of the best model",
    "num_processes": "number of processes",
    "micro_batch": "micro-batch",
    "given_optimizer": "optimizer",
    "given_scheduler": "scheduler",
}


def rule_of(name: str) -> Rule:
    """
    Returns the rule of a setting or entry, such as `seed`, `adapter.r` or `eval_data.helpful`. An unknown entry (a
    field of a later version of a library) is refused when it changes.
    """
    return RULES.get(name.partition(".")[0], Rule(REFUSED, "this version does not know its effect"))


def label_of(name: str) -> str:
    """Returns the name of an entry in messages."""
    head, dot, rest = name.partition(".")
    label = LABELS.get(head)
    if label is None:
        return name
    return f"{label} '{rest}'" if dot and head.startswith("eval") else label + dot + rest

"""
The base-LM stage: a causal language model learns the good texts of preference data, before any reward modeling.

    accelerate launch recipes/sft.py                                         # tiny default, a laptop CPU
    accelerate launch recipes/grft.py --model_name_or_path outputs/sft       # the next stage starts from it

The training is TRL's SFTTrainer; any of its settings can be given. Data is named as in the other recipes.
"""

from pathlib import Path

from rm_toolkit.training.runtime import claim_output_dir, run_main, silence_launch_noise, use_all_cores


DEFAULT_CONFIG = Path(__file__).parent / "tiny" / "sft.yaml"


@run_main
def main() -> None:
    from trl import ModelConfig

    from rm_toolkit.batches.chat_clock import recorded_date
    from rm_toolkit.models.loading import load_config
    from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
    from rm_toolkit.training import sft as base_lm
    from rm_toolkit.training import stages, tiny_base
    from rm_toolkit.training.chat_date import dated_tokenizer
    from rm_toolkit.training.output_dir import take_output_dir
    from rm_toolkit.training.recipe import parse_recipe
    from rm_toolkit.training.refused import readable_data, refusals_located
    from rm_toolkit.training.resume_from import goes_on, resolve_resume
    from rm_toolkit.training.run_files import clear_output_dir

    silence_launch_noise()
    groups = (base_lm.BaseLmArguments, base_lm.BaseLmConfig, ModelConfig)
    recipe, training, model = parse_recipe(DEFAULT_CONFIG, description=__doc__, groups=groups)
    use_all_cores(recipe.cpu_threads)
    take_output_dir(recipe, training, model)
    resume = resolve_resume(training)
    goes = goes_on(training, resume)
    claim_output_dir(training.output_dir, overwrite=recipe.overwrite_output_dir, resume=goes)

    train, evaluation, _ = stages.load_stage_data(recipe, training)
    tiny_base.ensure_tiny_base(recipe, model, train, training.seed)
    config = load_config(model.model_name_or_path, revision=model.model_revision)
    revision = None if recipe.tokenizer_name_or_path else model.model_revision
    tokenizer = load_tokenizer(recipe.tokenizer_name_or_path or model.model_name_or_path, revision=revision)
    known = recorded_date(load_tokenizer(resume)) if resume and training.data_format == "chat" else None
    tokenizer, _ = dated_tokenizer(tokenizer, training, known)
    prepare_tokenizer(tokenizer, config, max_length=training.max_length, data_format=training.data_format)
    train, evaluation = readable_data(recipe, (train, evaluation), tokenizer, training.data_format)
    with refusals_located(recipe):
        train, *evaluation = (
            base_lm.language_modeling_rows(rows, tokenizer, recipe, training, name)
            for name, rows in {"train": stages.mix(train), **evaluation}.items()
        )
    if not resume and (recipe.overwrite_output_dir or goes):
        clear_output_dir(training.output_dir)
    trainer = base_lm.BaseLmTrainer(
        base_lm.load_base_lm(model, training, tokenizer),
        training,
        train_dataset=train,
        eval_dataset=dict(zip(recipe.eval_datasets, evaluation)) or None,
        processing_class=tokenizer,
        peft_config=base_lm.adapter_config(model),
    )
    base_lm.run_base_lm(trainer, resume)


if __name__ == "__main__":
    main()

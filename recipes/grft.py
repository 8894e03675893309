"""
General reward-model fine-tuning (GRFT): a base language model learns what people in general prefer.

    accelerate launch recipes/grft.py                                        # tiny default, a laptop CPU
    accelerate launch --config_file accelerate_configs/zero3_offload.yaml \
        recipes/grft.py --config recipes/llama-7b/grft.yaml                  # the paper's run

Any setting in the YAML can be given as a flag: --learning_rate 2e-6 --train_datasets helpful=PATH harmless=PATH:0.5
"""

from pathlib import Path

from rm_toolkit.training.runtime import claim_output_dir, run_main, silence_launch_noise, use_all_cores


DEFAULT_CONFIG = Path(__file__).parent / "tiny" / "grft.yaml"


@run_main
def main() -> None:
    from rm_toolkit.training import stages, tiny_base
    from rm_toolkit.training.output_dir import take_output_dir
    from rm_toolkit.training.recipe import parse_recipe
    from rm_toolkit.training.resume_from import goes_on, resolve_resume

    silence_launch_noise()
    recipe, training, model = parse_recipe(DEFAULT_CONFIG, description=__doc__)
    use_all_cores(recipe.cpu_threads)
    take_output_dir(recipe, training, model)
    resume = resolve_resume(training)
    claim_output_dir(training.output_dir, overwrite=recipe.overwrite_output_dir, resume=goes_on(training, resume))

    train, evaluation, replay = stages.load_stage_data(recipe, training)
    tiny_base.ensure_tiny_base(recipe, model, train, training.seed)
    trainer = stages.build_trainer(recipe, training, model, train, evaluation, replay, stage="grft")
    stages.run_stage(trainer, recipe, resume)


if __name__ == "__main__":
    main()

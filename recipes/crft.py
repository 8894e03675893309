"""
Customized reward-model fine-tuning (CRFT): a general reward model learns the preferences of one domain.

    accelerate launch recipes/crft.py --domain literature                    # after recipes/grft.py, tiny default
    accelerate launch --config_file accelerate_configs/zero3_offload.yaml \
        recipes/crft.py --config recipes/llama-7b/crft.yaml --domain literature

`{domain}` in the YAML is replaced by the domain. The base must be a reward model: one without a reward head is
refused.
"""

from pathlib import Path

from rm_toolkit.errors import InputError
from rm_toolkit.training.runtime import claim_output_dir, run_main, silence_launch_noise, use_all_cores


DEFAULT_CONFIG = Path(__file__).parent / "tiny" / "crft.yaml"


@run_main
def main() -> None:
    from rm_toolkit.training import stages, tiny_base
    from rm_toolkit.training.output_dir import take_output_dir
    from rm_toolkit.training.recipe import parse_recipe
    from rm_toolkit.training.resume_from import goes_on, resolve_resume

    silence_launch_noise()
    recipe, training, model = parse_recipe(DEFAULT_CONFIG, description=__doc__)
    use_all_cores(recipe.cpu_threads)
    base = str(model.model_name_or_path)
    if base.startswith("outputs/") and not recipe.tiny_base and not Path(base, "config.json").exists():
        raise InputError(
            f"{base} does not exist yet. Run `accelerate launch recipes/grft.py` first, or name another model."
        )
    take_output_dir(recipe, training, model)
    resume = resolve_resume(training)
    claim_output_dir(training.output_dir, overwrite=recipe.overwrite_output_dir, resume=goes_on(training, resume))

    train, evaluation, replay = stages.load_stage_data(recipe, training)
    tiny_base.ensure_tiny_base(recipe, model, train, training.seed)
    trainer = stages.build_trainer(recipe, training, model, train, evaluation, replay, stage="crft")
    stages.run_stage(trainer, recipe, resume)


if __name__ == "__main__":
    main()

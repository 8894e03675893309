"""A training run: trainer, recipes and settings, stages, steps, checkpoints, resuming, engines, memory plan."""

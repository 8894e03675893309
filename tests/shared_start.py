"""Stages of a study whose CRFT runs take accuracy at the start from the GRFT run. No test."""


def shared_start(**changes):
    """A CRFT stage that takes accuracy at the start from the GRFT run."""
    sets = {"a": "data/a", "b": "data/b", "dsp_{domain}": {"path": "data/dsp", "domain": "{domain}"}}
    strategies = {"plain": {"lm_loss_coef": 0}, "imitation": {"lm_loss_coef": 0.1}}
    grid = {
        "config": "recipes/tiny/crft.yaml",
        "flags": {"eval_on_start": False, "eval_datasets": sets},
        "strategies": strategies,
        "domains": ["law"],
    }
    return {**grid, **changes}


def general_stage(sets, data=None):
    return {
        "config": "recipes/tiny/grft.yaml",
        "flags": {"eval_datasets": sets},
        "data": data or {"hh": {"helpful": "x"}},
    }


LAW = {"dsp_law": {"path": "data/dsp", "domain": "law"}}

"""A stand-in for `accelerate launch` that writes what a recipe would write, from its flags."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(words: list[str]) -> None:
    stage = Path(words[0]).stem
    flags = dict(zip(words[1::2], words[2::2]))
    output = Path(flags["--output_dir"])
    calls = output.parents[2] / "calls.txt"
    with calls.open("a") as file:
        file.write(output.parent.name + "\n")
    if (output.parents[2] / f"break-{output.parent.name}").exists():
        print("error: this cell is broken on purpose", file=sys.stderr)
        sys.exit(2)
    if stage == "crft" and "--allow_new_head" not in flags:
        assert Path(flags["--model_name_or_path"], "weights").is_file(), "the GRFT model is not there"
    output.mkdir(parents=True)
    (output / "weights").write_text("w")
    (output / "checkpoint-4").mkdir()
    seed = int(flags["--seed"])
    gain = 0.4 if float(flags.get("--lm_loss_coef", 0)) == 0 else 0.3
    loss = 0.1 if gain == 0.4 else 0.02
    start, end = (
        {"a": 0.9, "b": 0.8, "dsp_law": 0.5},
        {"a": 0.9 - loss, "b": 0.8 - loss, "dsp_law": 0.5 + gain + 0.01 * seed},
    )
    results = {
        when: {name: {"accuracy": value} for name, value in sets.items()}
        for when, sets in (("start", start), ("end", end))
    }
    if flags.get("--eval_on_start") == "false":
        results["start"] = {}
    (output / "final_eval_results.json").write_text(json.dumps(results))
    history = [
        {"step": step, **{f"eval_{name}_accuracy": value for name, value in sets.items()}}
        for step, sets in ((0, start), (4, end))
    ]
    (output / "training_log.json").write_text(json.dumps({"pairs_per_step": 8, "log_history": history}))


main(sys.argv[1:])

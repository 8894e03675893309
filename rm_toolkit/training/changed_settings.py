"""Compares the run of a checkpoint with the run that is to resume from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .resume_rules import ACCEPTED, IGNORED, REFUSED, SAID, label_of, rule_of
from .run_identity import SCHEDULE, same


WIDTH = 44  # characters of a value in a table
# A difference in one of these causes a difference in the entries below it, which is then not reported separately.
CAUSES = {
    "train_tokens": (
        "train_data", "base_files", "base_weights", "max_length", "data_format", "pooling_type", "lm_loss_coef",
        "lm_score_threshold", "pools_eos", "chat_date",
    ),
    "replay_tokens": ("replay_data", "base_files", "base_weights", "max_length", "data_format", "pooling_type", "pools_eos", "chat_date"),
    "eval_tokens": ("eval_data", "base_files", "base_weights", "max_length", "data_format", "pooling_type", "pools_eos", "chat_date"),
    "total_steps": ("train_data", "train_tokens", "pairs_per_step", "general_replay_fraction"),
    "warmup_steps": ("train_data", "train_tokens", "pairs_per_step", "general_replay_fraction"),
    "data_seed": ("seed",),
    "pools_eos": ("pooling_type", "data_format"),
    "chat_date": ("data_format",),
}  # fmt: skip
# Schedules that depend on the step alone; the others follow the metrics and store their rate themselves.
FOLLOW_METRICS = ("reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class Change:
    """
    One entry that has changed.

    Args:
        name (`str`): Entry, such as `learning_rate` or `adapter.r`.
        before, after (`Any`): Its value in the checkpoint, and now.
        kind (`str`): Of its rule.
        why (`str`): Why it cannot change, if so.
    """

    name: str
    before: Any
    after: Any
    kind: str
    why: str = ""

    def __str__(self) -> str:
        return f"{label_of(self.name)} {_short(self.before)} -> {_short(self.after)}"

    def record(self, step: int) -> dict[str, Any]:
        """Returns its entry in the lineage."""
        return {"step": step, "setting": self.name, "before": self.before, "after": self.after}


def find_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], defaults: Mapping[str, Any] | None, step: int
) -> tuple[list[Change], list[str]]:
    """
    Compares two records of runs.

    Args:
        before (mapping): Of the checkpoint.
        after (mapping): Of this launch.
        defaults (mapping, *optional*): Values of fields that the checkpoint's version may not have had yet; `None` if
            missing entries are unknown.
        step (`int`): Of the checkpoint.

    Returns:
        `tuple`: What differs, without what merely follows from something else; and the entries that the checkpoint
            does
        not record.
    """
    found, unknown = {}, []
    for name, now in after.items():
        rule = rule_of(name)
        if rule.kind == IGNORED:
            continue
        if name not in before:
            if (
                name.startswith(("eval_data.", "eval_tokens."))
                and "eval_sets" in before
                and name.partition(".")[2] not in before["eval_sets"]
            ):
                continue  # a new test set, which `eval_sets` reports
            if defaults is None or name not in defaults:
                if now is not None or not name.startswith("given_"):
                    unknown.append(name)
                continue
        was = before[name] if name in before else defaults[name]
        if same(was, now):
            continue
        for change in _parts(name, was, now):
            found[change[0]] = Change(*change, *_verdict(name, was, now, after, step))
    for name, causes in CAUSES.items():
        if any(cause in {key.partition(".")[0] for key in found} for cause in causes):
            found = {key: change for key, change in found.items() if key.partition(".")[0] != name}
    return list(found.values()), unknown


def _verdict(name: str, was: Any, now: Any, after: Mapping[str, Any], step: int) -> tuple[str, str]:
    rule = rule_of(name)
    if name == "total_steps" and now < step:
        return REFUSED, f"the checkpoint is at step {step}"
    if name in SCHEDULE and any(kind in FOLLOW_METRICS for kind in (was, after.get("lr_scheduler_type"))):
        return REFUSED, "a schedule of this kind follows the metrics and stores its own rate"
    if name in SCHEDULE and now is None:
        return REFUSED, "the scheduler is made in Python"
    return rule.kind, rule.why


def _parts(name: str, was: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """The entries in which two mappings differ."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return [(name, was, now)]
    keys = [key for key in {**was, **now} if not same(was.get(key), now.get(key))]
    return [(f"{name}.{key}", was.get(key), now.get(key)) for key in keys]


def check_changes(changes: list[Change], folder: str, step: int, allow: bool) -> None:
    """
    Refuses what a run may not change.

    Args:
        changes (`list[Change]`): From [`find_changes`].
        folder (`str`): The checkpoint.
        step (`int`): Its step.
        allow (`bool`): `allow_changed_settings`.

    Raises:
        `InputError`: with a table of what differs, and what to do.
    """
    fixed = [change for change in changes if change.kind == REFUSED]
    open_ = [change for change in changes if change.kind == ACCEPTED]
    if not fixed and (allow or not open_):
        return
    listed = [*fixed, *([] if allow else open_)]
    names = ", ".join(label_of(change.name) for change in listed)
    rows = [("setting", "in the checkpoint", "now")]
    rows += [(label_of(change.name), _short(change.before), _short(change.after)) for change in listed]
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
    advice = []
    for why in dict.fromkeys(change.why for change in fixed):
        of_it = ", ".join(label_of(change.name) for change in fixed if change.why == why)
        advice.append(f"A run keeps its {of_it}: {why}.")
    if listed != fixed:
        others = "the others, if they alone differ," if fixed else "the new values"
        advice.append(f"--allow_changed_settings accepts {others} from step {step} on, and records them.")
    advice.append(
        "Resume with the values of the checkpoint; or start a new run: in another --output_dir, or with "
        "--overwrite_output_dir instead of --resume_from_checkpoint."
    )
    raise InputError(
        f"{folder} was made with other settings ({names}); nothing was changed.\n{table}\n{' '.join(advice)}"
    )


def describe_changes(changes: list[Change], unknown: list[str], folder: str, step: int, version: str) -> list[str]:
    """
    Returns what a run reports that resumes although something differs, one line each.

    Args:
        changes (`list[Change]`): From [`find_changes`], checked.
        unknown (`list[str]`): Entries that the checkpoint does not record.
        folder (`str`): The checkpoint.
        step (`int`): Its step.
        version (`str`): Version of rm_toolkit that wrote it.
    """
    lines = []
    accepted = [change for change in changes if change.kind == ACCEPTED]
    said = [change for change in changes if change.kind == SAID]
    if accepted:
        lines.append(f"From step {step} on, as --allow_changed_settings says: {'; '.join(map(str, accepted))}.")
    if said:
        lines.append(
            f"warning: {folder} was written with another {', '.join(map(str, said))}: the run continues with the same "
            "data, but sums and dropout are not bit for bit those of the uninterrupted run."
        )
    named = list(dict.fromkeys(label_of(name.partition(".")[0]) for name in unknown))
    if named:
        lines.append(
            f"note: {folder} (written by rm_toolkit {version}) does not record these settings, so they were not compared: "
            f"{', '.join(named)}."
        )
    return lines


def _short(value: Any) -> str:
    if value in (None, "", [], {}):
        return "none"
    if isinstance(value, Mapping):
        value = [f"{key} {item}" for key, item in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"

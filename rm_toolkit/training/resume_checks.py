"""Begins or resumes a run; a resumed run needs the data and settings that its checkpoint was made with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..batches.step_split import PLAN_VERSION
from ..errors import InputError
from ..output.console import console
from ..output.json_files import load_json
from .changed_settings import check_changes, describe_changes, find_changes
from .earlier_versions import recorded_settings
from .head_rate import OWN_RATE
from .manifest import checkpoints, read_manifest
from .parts import RunParts
from .resume_rules import ACCEPTED
from .run_identity import IDENTITY_NAME, SCHEDULE, RunIdentity, describe_run
from .run_record import plain


SPEEDS = ("runtime", "per_second")


def identify_run(run: RunParts, folder: str | None) -> RunIdentity:
    """
    Records the identity of a run and, if it resumes, compares it with the checkpoint's. Called by all processes
    together; the first one does the work. Changes nothing on the disk.

    Args:
        run (`RunParts`): Before its first step.
        folder (`str`, *optional*): The checkpoint that it resumes from.

    Raises:
        `InputError`: with a table of the changes that a run may not have.
    """
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = dataclasses.asdict(_identify(run, folder))
        except InputError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1]:
        raise InputError(answer[1])
    identity = RunIdentity(**answer[0])
    if identity.changed and run.owns_lineage:
        settings = run.model.settings
        entry = {**settings.lineage[-1], "changed_from_step": identity.changed}
        run.model.settings = dataclasses.replace(settings, lineage=[*settings.lineage[:-1], entry])
    return identity


def _identify(run: RunParts, folder: str | None) -> RunIdentity:
    settings = describe_run(run)
    if folder is None:
        return RunIdentity(settings=settings)
    step = int(Path(folder).name.rpartition("-")[2])
    old, config = RunIdentity.load(folder), type(run.args)
    if old is None:
        stages = len(run.model.settings.lineage) if run.owns_lineage else None
        before, defaults, identity = recorded_settings(folder, config, stages), None, RunIdentity()
    else:
        # Not recorded before it could differ.
        before, identity = {"pools_eos": False, "plan_version": 1} | old.settings, old
        defaults = {
            item.name: plain(item.default_factory() if item.default is dataclasses.MISSING else item.default)
            for item in dataclasses.fields(config)
        }
    before.setdefault("chat_date", settings["chat_date"])  # not recorded before; the token ids show a difference
    changes, unknown = find_changes(before, settings, defaults, step)
    check_changes(changes, folder, step, run.args.allow_changed_settings)
    version = (read_manifest(folder) or {}).get("rm_toolkit_version", "an earlier version")
    for line in describe_changes(changes, unknown, folder, step, version):
        console.print(line)
    identity.settings = settings
    identity.changed = [*identity.changed, *(change.record(step) for change in changes)]
    identity.accepted = [change.name for change in changes if change.kind == ACCEPTED]
    return identity


def recorded_plan_version(folder: str | None) -> int:
    """
    Returns the version of the rule by which a run splits the pairs of a step over processes: the checkpoint's, or the
    newest for a new run. Called by all processes together.

    Args:
        folder (`str`, *optional*): The checkpoint that it resumes from.

    Raises:
        `InputError`: if a later version of rm_toolkit made it with a rule that this version does not have.
    """
    answer: list[Any] = [PLAN_VERSION]
    if folder is not None and PartialState().is_main_process:
        try:
            identity = RunIdentity.load(folder)
            answer[0] = identity.settings.get("plan_version", 1) if identity else 1
        except InputError:
            pass  # reported where the whole record is compared
    broadcast_object_list(answer)
    if answer[0] not in range(1, PLAN_VERSION + 1):
        raise InputError(
            f"{folder} was made by a later version of rm_toolkit, which splits the pairs of a step over processes in another "
            f"way (`plan_version` {answer[0]!r} of {IDENTITY_NAME}; this version knows those up to {PLAN_VERSION}). Resume "
            "with that version."
        )
    return answer[0]


def refuse_other_runs(folder: str, output_dir: str) -> None:
    """
    Refuses a folder with checkpoints of several runs: one may have been moved there, or left by an earlier run.

    Args:
        folder (`str`): The checkpoint to resume from.
        output_dir (`str`): Output folder of the run.

    Raises:
        `InputError`: naming both.
    """
    found = [path for path in checkpoints(output_dir).values() if read_manifest(path)]
    runs: dict[str, list[str]] = {}
    for path in found:
        try:
            identity = RunIdentity.load(path)
        except InputError:
            continue  # a damaged checkpoint, which no run resumes from
        runs.setdefault(identity.run_id if identity else "", []).append(str(path))
    known = {run_id: paths for run_id, paths in runs.items() if run_id}
    if len(known) > 1:
        named = " and ".join(f"{', '.join(paths)} (run {run_id})" for run_id, paths in known.items())
        raise InputError(
            f"{output_dir} holds checkpoints of several runs: {named}. Move those of the other run away, and resume from a "
            "checkpoint of this run."
        )
    # Up to version 0.2.1 a run had no id; its log distinguishes it from another.
    for path in runs.get("", []):
        if not _same_log(Path(path), Path(folder)):
            raise InputError(
                f"{output_dir} holds checkpoints of several runs: the logs of {path} and {folder} differ "
                "before the step of the earlier one. Move those of the other run away, and resume from a checkpoint "
                "of this run."
            )


def _same_log(one: Path, other: Path) -> bool:
    logs = []
    for path in (one, other):
        try:
            state = load_json(path / "trainer_state.json")
            logs.append((int(state["global_step"]), [_without_speeds(entry) for entry in state["log_history"]]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return True  # what is wrong with it is reported elsewhere
    (_, shorter), (_, longer) = sorted(logs, key=lambda log: log[0])
    return shorter == longer[: len(shorter)]


def _without_speeds(entry: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in entry.items() if not key.endswith(SPEEDS)}, sort_keys=True)


def apply_new_schedule(identity: RunIdentity, scheduler: Any, learning_rate: float) -> None:
    """
    Applies a new learning rate or run length from here on: the checkpoint has restored the old rate.

    Args:
        identity (`RunIdentity`): What this launch has changed.
        scheduler (`LRScheduler`): With the state of its checkpoint; its schedule depends only on the step.
        learning_rate (`float`): Learning rate of this launch.
    """
    if not {*SCHEDULE, "total_steps"} & {name.partition(".")[0] for name in identity.accepted}:
        return
    while hasattr(scheduler, "scheduler"):  # accelerate's wrapper
        scheduler = scheduler.scheduler
    if not hasattr(scheduler, "lr_lambdas"):
        return
    old = [change["before"] for change in identity.changed if change["setting"] == "learning_rate"]
    bases = scheduler.base_lrs
    if "learning_rate" in identity.accepted:
        own = [OWN_RATE in group for group in scheduler.optimizer.param_groups]
        # Optimizers may scale the rate of some groups; the head's own rate is a setting of its own.
        scaled = [learning_rate if base == old[-1] else base * learning_rate / old[-1] for base in bases]
        bases = [base if is_own else new for base, new, is_own in zip(bases, scaled, own)]
    rates = [base * rate(scheduler.last_epoch) for base, rate in zip(bases, scheduler.lr_lambdas)]
    scheduler.load_state_dict({**scheduler.state_dict(), "base_lrs": bases, "_last_lr": rates})
    for group, base, rate in zip(scheduler.optimizer.param_groups, bases, rates):
        group["initial_lr"], group["lr"] = base, rate

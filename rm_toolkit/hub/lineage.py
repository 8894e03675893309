"""Reads a model's lineage: bases, datasets, licenses, settings of its stages."""

from __future__ import annotations

from typing import Any

from ..data.sources import SOURCES
from ..models.settings import RewardModelSettings


# Keys of a lineage entry that are not training settings.
NOT_SETTINGS = (
    "stage", "domain", "base", "base_is_local", "datasets", "replay_datasets", "eval_datasets", "changed_settings",
    "versions", "changed_from_step", "customized", "weights", "general_lineage", "customized_lineages",
)  # fmt: skip


def data_licenses(settings: RewardModelSettings) -> dict[str, str]:
    """
    Returns the licenses of the training data of all stages.

    The license given by the user counts; for other sets, that of the published data in their source format.

    Returns:
        `dict[str, str]`: Source (`dsp`, …) or name of the dataset -> license.
    """
    licenses: dict[str, str] = {}
    for entry in settings.stages():
        for key in ("datasets", "replay_datasets"):
            for name, described in entry.get(key, {}).items():
                if described.get("license"):
                    licenses[f"`{name}`"] = described["license"]
                    continue
                spec = described.get("spec")
                named = [spec["source"]] if isinstance(spec, dict) and spec.get("source") else []
                for source in described.get("sources") or named:
                    if source in SOURCES and SOURCES[source].license:
                        licenses[source] = SOURCES[source].license
    return licenses


def nearest_on_hub(settings: RewardModelSettings) -> str | None:
    """Returns the Hub id of the nearest ancestor that is on the Hub."""
    return next((entry["base"] for entry in reversed(settings.lineage) if not entry.get("base_is_local", True)), None)


def hub_datasets(settings: RewardModelSettings) -> list[str]:
    """Returns the Hub ids of the datasets of all stages that are on the Hub."""
    found = []
    for entry in settings.stages():
        for key in ("datasets", "replay_datasets"):
            for described in entry.get(key, {}).values():
                spec = described.get("spec")
                path = spec.get("path") if isinstance(spec, dict) else (spec or "").split(":")[0]
                if path and described.get("local") is False and path not in found:
                    found.append(path)
    return found


def stage_facts(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns the card's text about one stage: its base, data, settings, and changes during the run."""
    settings = {key: value for key, value in entry.items() if key not in NOT_SETTINGS and value is not None}
    if settings.get("max_steps") == -1:
        del settings["max_steps"]
    settings |= entry.get("changed_settings", {})
    return {
        "name": entry["stage"].upper(),
        "domain": entry.get("domain"),
        "base": entry["base"],
        "base_is_local": entry.get("base_is_local", True),
        "datasets": [
            {
                "name": name,
                "use": use,
                "rows": "streamed" if described["rows"] is None else f"{described['rows']:,}",
                "fingerprint": described.get("fingerprint", "-"),
                "sources": ", ".join(described.get("sources") or []),
                "spec": _spec_text(described.get("spec")),
            }
            for key, use in (("datasets", "train"), ("replay_datasets", "replay"), ("eval_datasets", "test"))
            for name, described in entry.get(key, {}).items()
        ],
        "merged": _merged_text(entry),
        "settings": settings,
        "changes": [
            f"from step {change['step']} on: `{change['setting']}` {change['after']} instead of {change['before']}"
            for change in entry.get("changed_from_step", [])
        ],
        "versions": ", ".join(f"{name} {version}" for name, version in entry.get("versions", {}).items()),
    }


def _merged_text(entry: dict[str, Any]) -> str | None:
    if "weights" not in entry:
        return None
    weights = ", ".join(f"`{name}` ({weight:g})" for name, weight in zip(entry["customized"], entry["weights"]))
    return f"Weights of `{entry['base']}` (general) and {weights}, interpolated linearly."


def _spec_text(spec: Any) -> str:
    if isinstance(spec, dict):
        spec = ", ".join(f"{key} {value}" for key, value in spec.items() if value is not None)
    return str(spec or "").replace("|", "\\|")

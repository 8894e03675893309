"""Where a run reports to: TensorBoard, trackio, Weights & Biases and the others that transformers knows."""

from __future__ import annotations

from transformers.integrations import integration_utils

from ..errors import InputError


# Package of each, where its name differs.
PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet_ml", "flyte": "flytekit"}


def check_reports(report_to: str | list[str] | None) -> None:
    """
    Refuses trackers that are not installed, before a model or data is loaded; unknown names are out of the setting's
    range.

    Args:
        report_to (`str` or `list[str]`, *optional*): As given; "none" and "all" are transformers' own.

    Raises:
        `InputError`: naming the package to install.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    for name in names:
        if name in ("none", "all"):
            continue
        available = getattr(integration_utils, f"is_{name}_available", None)
        if available is not None and not available():
            raise InputError(
                f"`report_to` has '{name}', which is not installed: pip install {PACKAGES.get(name, name)}; or set "
                "`report_to: none`."
            )

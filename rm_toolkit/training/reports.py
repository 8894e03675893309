"""Where a run reports to: TensorBoard, trackio, Weights & Biases and the others that transformers knows."""

from __future__ import annotations

from transformers.integrations import integration_utils

from ..errors import InputError, did_you_mean, name_list


KNOWN = tuple(integration_utils.INTEGRATION_TO_CALLBACK)
# What each needs, where the package has another name.
PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet_ml", "flyte": "flytekit"}


def check_reports(report_to: str | list[str] | None) -> None:
    """
    Refuses names that nothing reports to, before a model is loaded or data are read.

    Args:
        report_to (`str` or `list[str]`, *optional*): As given; "none" and "all" are transformers' own.

    Raises:
        `InputError`: naming the unknown one, or the package that is not installed.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in KNOWN:
            raise InputError(
                f"`report_to` has '{name}'; it is 'none', 'all', or some of {name_list(KNOWN)}.{did_you_mean(name, KNOWN)}"
            )
        available = getattr(integration_utils, f"is_{name}_available", None)
        if available is not None and not available():
            raise InputError(
                f"`report_to` has '{name}', which is not installed: pip install {PACKAGES.get(name, name)}; or set "
                "`report_to: none`."
            )

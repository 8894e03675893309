"""The ranges of the numeric options for asking questions and filtering answers."""

from ..output.ranges import MANY, Number


TEMPERATURE = Number(0, 100)
TOP_P = Number(0, 1, above=True)
MAX_TOKENS = Number(1, MANY, whole=True)
SAMPLING_SEED = Number(-(2**63), 2**63 - 1, whole=True)
CONCURRENCY = Number(1, 10_000, whole=True)
TIMEOUT = Number(0, 1e7, above=True, unit="seconds")
MAX_RETRIES = Number(0, 1000, whole=True)
MAX_SIMILARITY = Number(0, 1, above=True)
LENGTH_OUTLIERS = Number(0, 1e9, above=True)

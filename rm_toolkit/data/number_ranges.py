"""The ranges of the numbers that select parts of a dataset."""

from ..output.ranges import MANY, Number


FRACTION = Number(0, 1, above=True)
TEST_SIZE = Number(0, MANY, share=True)  # a fraction of the prompts, or their number
SCORE_RATIO = Number(1, MANY)
WINDOW = Number(1, 100_000_000, whole=True)  # rows computed together

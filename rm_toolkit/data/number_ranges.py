"""The ranges of the numbers that say what is taken of a data set."""

from ..output.ranges import MANY, Number


FRACTION = Number(0, 1, above=True)
TEST_SIZE = Number(0, MANY, share=True)  # a share of the prompts, or how many of them
SCORE_RATIO = Number(1, MANY)
WINDOW = Number(1, 100_000_000, whole=True)  # rows computed together

"""A grid of runs over base models, general data and strategies, and its report."""

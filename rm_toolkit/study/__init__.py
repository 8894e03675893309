"""A grid of runs over base models, general data and strategies, and what it shows."""

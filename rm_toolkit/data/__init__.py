"""From raw preference data to token ids: sources, schema, cleaning, splits, mixtures."""

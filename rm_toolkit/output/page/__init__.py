"""Pages that a browser opens from disk: tables, figures and, if any, pairs; nothing is loaded from a network."""

"""Pages that a browser opens from disk: tables, figures and, where there are any, pairs; nothing comes from a network."""

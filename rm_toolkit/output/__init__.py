"""Console, Markdown, figures, settings files, files and folders written atomically, locks, redaction, strict YAML."""

"""What is written and printed: console, Markdown, pictures, folders and files written whole, locks, redaction, strict YAML."""

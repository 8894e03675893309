"""One module a command of `rm-toolkit`: `add_arguments(parser)` and `run(args)`."""

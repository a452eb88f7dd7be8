"""The REPL: suggestions while you type. `promptimal` alone on a terminal opens it, see `session`."""

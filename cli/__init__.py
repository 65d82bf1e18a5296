"""The `tfmpq` command line: one file a verb, no logic."""

"""The command line: one file per verb, found by its name.

A verb is a module here with `HELP` (one line), `configure(parser)` and `run(args) -> int`, the exit code. It takes
`--json`, and imports what is slow to import inside `run`.
"""

"""One module per command: `configure(parser)` declares its arguments, `run(args)` does the work.

The module's docstring is the command's help.
"""

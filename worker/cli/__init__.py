"""The commands of `chatwoot-cache`, one module each. May import all but `worker.__main__`.

A command's module has `add_arguments` and `run`; its docstring is the text of `--help`.
"""

"""A folder for PYTHONPATH: the interpreter imports its `sitecustomize` by itself."""

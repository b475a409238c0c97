"""What the worker can do, measured on real servers beside its peers: `python -m bench --help`."""

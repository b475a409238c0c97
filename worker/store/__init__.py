"""The only package that imports redis. May import `settings`, `embedded` and `core`."""

"""The commands of `chatwoot-cache`, one module each. May import all but `worker.__main__`."""

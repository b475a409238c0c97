"""The commands of `chatwoot-cache`, one module each. May import everything but `worker.__main__`."""

"""Evolution and Chatwoot, as far as this project speaks to them: real servers on loopback."""

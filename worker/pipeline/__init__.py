"""The loop: read, settle, ack; and its upkeep."""

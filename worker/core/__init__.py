"""What an event means: pure functions and values, no I/O, no clock."""

"""Pure rules: no I/O, no clock, no logging. Imports nothing of this project but `errors`."""

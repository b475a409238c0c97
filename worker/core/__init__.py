"""Pure rules: no I/O, no clock, no logging. May import nothing of this project but `errors`."""

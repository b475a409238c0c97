"""Rules that only commands and the purge use: rights, audit, scope of a purge, dead letters."""

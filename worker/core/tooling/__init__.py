"""Rules that only commands and purges use: ACL, audit, purge scope, dead letters."""

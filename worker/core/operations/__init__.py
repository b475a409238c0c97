"""Rules that only commands and purges use: ACL rules, audit, purge scope, dead letters."""

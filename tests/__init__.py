"""Tests: on a real server, under unique names, in random order."""

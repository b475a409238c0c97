"""Long runs that break things on purpose, and look at the end whether anything was lost."""

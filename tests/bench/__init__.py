"""What the benchmarks rest on: that they measure what they say."""

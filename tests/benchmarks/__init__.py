"""Tests of the benchmarks: that they run and count right, not how fast anything is."""

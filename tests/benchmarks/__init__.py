"""Tests of what is measured rather than tested."""

"""Tests of the registry and of every task."""

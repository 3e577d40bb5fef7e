"""Tests of token ids in, predictions out."""

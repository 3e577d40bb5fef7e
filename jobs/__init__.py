"""Shards in, parts out: Ray Data, pyarrow and the command line. Knows no torch."""

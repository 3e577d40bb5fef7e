"""`python -m jobs`, the same as `shardlabel`."""

from jobs.cli import main

main()

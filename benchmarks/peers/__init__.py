"""One file per peer, each a script that runs in an environment and a process of its own; `worker.py` is its frame."""

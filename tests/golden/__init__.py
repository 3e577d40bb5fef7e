"""Golden values of the pipelines that transformers 5 no longer has, and the scripts that made them with 4.57.6."""

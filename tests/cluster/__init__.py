"""cluster.yaml and the files of docs/cluster/."""

"""Several hosts on one machine: `make multihost`."""

"""A fault campaign: the real job, killed, starved and lied to at random moments, must end with the same bytes."""

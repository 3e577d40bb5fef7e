"""What is measured rather than tested: shardlabel side by side with what a user would pick instead."""

"""From token shards to the packed batches of each step, the same on any number of ranks."""

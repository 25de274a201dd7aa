"""`prepare corpus`: any text to token shards."""

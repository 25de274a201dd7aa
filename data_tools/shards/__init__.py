"""The token shards: THE format, written, checked and read."""

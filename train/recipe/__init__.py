"""What a run is asked to do: every key, read, checked, compared."""

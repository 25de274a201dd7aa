"""What a run is asked to do: every key, read, checked, compared, and the rate that follows for each step."""

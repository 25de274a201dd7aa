"""Whether a run will go well, before it starts: derived numbers, memory and disk, chat data."""

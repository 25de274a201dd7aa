"""The run itself, top to bottom, and what it says."""

"""Archives from strangers as trees in memory, with caps."""

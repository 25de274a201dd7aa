"""The `astrollama` command of an installed program: one word a door, and nothing else."""

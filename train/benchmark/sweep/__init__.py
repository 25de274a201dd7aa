"""Many measurements of a step, each in fresh processes: over values of a recipe's keys, or for the largest micro-batch."""

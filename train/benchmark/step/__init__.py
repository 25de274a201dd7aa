"""A recipe's step on real ranks, timed: what is computed, how fast, how full, in which phase, and what the wire costs."""

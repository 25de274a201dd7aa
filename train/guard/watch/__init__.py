"""Who watches a rank: signs of life, who did not arrive and why, one report, and the end of all ranks together."""

"""How fast a run will be on a cluster and what it takes there: arithmetic, with constants fitted to published figures."""

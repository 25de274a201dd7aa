"""How fast each part is, beside the machine's own rate and what others do."""

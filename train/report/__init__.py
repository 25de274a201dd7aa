"""A run on one page: what it was asked, what it learned from, how it went, what it can do."""

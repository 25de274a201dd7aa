"""Abstracts continued from their first sentences: how close to the truth, how repetitive, how much by heart."""

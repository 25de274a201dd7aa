"""Doors: parse, call, exit."""

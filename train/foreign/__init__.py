"""Weights as other programs left them, read as bytes; nothing is unpickled."""

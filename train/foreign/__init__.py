"""Weights as other programs left them, one room a program, read as bytes; nothing is unpickled."""

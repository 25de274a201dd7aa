"""A paper with its inputs in place, its conditions decided and its own macros carried out."""

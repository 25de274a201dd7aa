"""Perplexity of raw texts: their tokens scored once each, compared between models."""

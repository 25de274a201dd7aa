"""Embeddings of texts: how they spread, what they find, what they tell apart."""

"""Saving a run and finding it again: a Hugging Face folder that can also be trained on."""

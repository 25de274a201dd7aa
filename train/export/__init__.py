"""A checkpoint, or several, to a published Hugging Face folder; without torch, but for logit_check.py."""

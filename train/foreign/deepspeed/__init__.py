"""Checkpoint folders of DeepSpeed's own, from other trainers."""

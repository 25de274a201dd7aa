"""LLaMA-2 as Meta publishes it."""

"""What a model can do: perplexity, completions, recorded logits."""

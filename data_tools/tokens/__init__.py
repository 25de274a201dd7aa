"""Text to ids, exactly as the model's own tokenizer says; fast only where proven."""

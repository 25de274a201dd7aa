"""Documents: what they are called on disk, and which are worth training on."""

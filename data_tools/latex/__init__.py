"""LaTeX to clean text and sections."""

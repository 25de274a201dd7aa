"""`prepare arxiv`: metadata and LaTeX sources to documents, and their report."""

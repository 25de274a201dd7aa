"""Which file of a source is the paper: by the marks of arXiv, then by what the files say."""

"""What evaluate.py measures: each part its words on the command line, its inputs, its result."""

"""What stops a run, or keeps two from one folder: signals, non-finite steps, the run lock."""

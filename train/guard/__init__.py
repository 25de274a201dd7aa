"""What stops a run, keeps two from one folder, or ends all ranks when one fails: signals, watchers, fault reports."""

"""Long work done once: tasks over processes and clusters, one maker a folder, progress."""

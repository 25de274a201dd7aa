"""Where a run stands: its processes, its machine, its disks and stores."""

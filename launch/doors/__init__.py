"""What the doors share, and the door that data_tools.show opens for the documents behind a step."""

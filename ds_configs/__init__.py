"""JSON files for the DeepSpeed engine."""

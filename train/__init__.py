"""The trainer: from token shards and a recipe to a trained model."""

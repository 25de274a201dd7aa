"""Papers and conversations → token shards. Imports nothing of train or launch, and never torch."""

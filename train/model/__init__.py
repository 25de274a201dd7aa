"""A Llama-like model that takes packed batches: attention inside documents, the module tree, the loss."""

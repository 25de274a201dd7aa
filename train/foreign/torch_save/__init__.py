"""Files of torch.save: members, structure and byte ranges, without unpickling."""

"""All that one GPU is wanted for, in a few calls of limited time: correctness, speed beside a peer, and what needs host memory."""

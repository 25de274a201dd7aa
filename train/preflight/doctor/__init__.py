"""Go or no-go before a run: what every node has, what differs between them, what is slow."""

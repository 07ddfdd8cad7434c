"""What can be said of the two tables for every state, reachable or not: `onestream prove`."""

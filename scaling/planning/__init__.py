"""From a question to members: candidates and their costs, the price of being wrong, which pilot runs to buy."""

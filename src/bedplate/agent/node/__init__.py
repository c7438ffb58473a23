"""The agent in its node role: on a bare server whose disk was written, for the machine that this server now is."""

"""The nouns: what users declare, what is observed, what is to be, and the steps between. No I/O, no clock."""

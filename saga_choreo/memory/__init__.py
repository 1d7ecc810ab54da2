"""The reference broker and store: in this process, with no clock or randomness of their own."""

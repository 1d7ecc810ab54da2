"""The agent: everything that awaits. It runs the decisions of `core` against a broker and a store."""

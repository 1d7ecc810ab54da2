"""SQLite as a store of saga_choreo, through apsw."""

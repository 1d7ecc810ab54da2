"""Sagas in SQLite: step records in the user's own database file, through apsw. `store.SqliteStore` is the entry point."""

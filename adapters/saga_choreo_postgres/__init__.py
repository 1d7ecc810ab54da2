"""Sagas in PostgreSQL: step records in the user's own database, through asyncpg. `store.PostgresStore` is the entry point."""

from saga_choreo_postgres.access import connection, psycopg, session, sqlalchemy_connection

__all__ = ["connection", "psycopg", "session", "sqlalchemy_connection"]

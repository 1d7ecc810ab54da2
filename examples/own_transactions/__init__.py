"""The user's own transaction on PostgreSQL, with asyncpg, psycopg 3 and SQLAlchemy 2: one short program each.

Each starts a saga inside a transaction of "the web handler", and writes a step's own rows with the same library. What is rolled
back leaves nothing.
"""

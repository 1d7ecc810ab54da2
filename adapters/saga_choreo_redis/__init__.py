"""Sagas in Redis or Valkey: step records in hashes, each commit one Lua script. `store.RedisStore` is the entry point."""

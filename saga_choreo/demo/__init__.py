"""The demo: four real services on a real broker, judged by their own ledgers. Only the command line imports it."""

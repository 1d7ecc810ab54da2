"""Dead letters: what could not be applied, and what keeps failing; seen, judged, replayed and followed to the outcome."""

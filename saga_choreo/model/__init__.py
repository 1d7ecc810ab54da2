"""Values of the toolkit: envelope, events, choreography, records, policies. Pure: no I/O, clock or randomness."""

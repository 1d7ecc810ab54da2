"""Test support: conformance suites, real servers, fault injection. Nothing else of saga_choreo imports it."""

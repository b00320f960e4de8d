"""A package, so that tests/weakspot never shadows the `weakspot` that is under test."""

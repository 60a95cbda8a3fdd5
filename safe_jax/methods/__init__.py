"""The methods that are compared, a module for each: pure functions on arrays."""

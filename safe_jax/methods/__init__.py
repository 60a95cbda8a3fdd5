"""What is compared, a module for each method: pure functions on arrays."""

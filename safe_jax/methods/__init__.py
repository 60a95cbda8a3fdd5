"""What is compared: pure functions on arrays."""

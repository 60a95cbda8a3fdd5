"""What was tuned, as one thing: chosen on validation images, then evaluated."""

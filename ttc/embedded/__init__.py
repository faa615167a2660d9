"""What is shipped with the package: recorded samples for the demo."""

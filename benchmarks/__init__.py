"""What is measured, always beside a baseline in the same run. Not installed: run it from a checkout."""

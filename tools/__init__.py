"""What stands around the code: checks, demo, bench, packaging. Not installed."""

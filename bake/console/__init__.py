"""What people read in a terminal: progress, formats, and no secrets."""

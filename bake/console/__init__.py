"""What people read in a terminal: progress, formats, and the redaction of secrets."""

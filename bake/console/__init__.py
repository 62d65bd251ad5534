"""The output of commands: progress, formats, and the redaction of secrets."""

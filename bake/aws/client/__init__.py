"""How to talk to AWS: session, errors, retries, waits, and the undo of what a call has made."""

"""How to call AWS: session, errors, retries, waits, clean-up, and commands of the AWS CLI."""

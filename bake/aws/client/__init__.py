"""Calls of AWS: session, errors, retries, waits, clean-up, and commands for the AWS CLI."""

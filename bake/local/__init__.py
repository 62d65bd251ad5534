"""The local cloud: EC2's API on this computer, with real machines behind it."""

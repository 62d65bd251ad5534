"""The results of commands: tables and lines for people, JSON documents for programs."""

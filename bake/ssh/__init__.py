"""Connections over SSH, and what runs through them; the only importer of fabric and paramiko."""

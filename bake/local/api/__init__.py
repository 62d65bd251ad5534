"""EC2's API on this computer: moto, and what it lacks."""

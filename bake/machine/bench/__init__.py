"""How fast a machine is: what runs on it, its figures, and their page."""

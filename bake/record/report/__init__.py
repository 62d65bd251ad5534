"""Pages: one self-contained HTML file each, with charts, for people and their colleagues."""

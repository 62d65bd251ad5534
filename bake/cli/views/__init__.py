"""What the commands show: tables and lines for people, JSON documents for programs."""

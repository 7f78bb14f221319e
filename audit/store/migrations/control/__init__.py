"""Migrations of the control files."""

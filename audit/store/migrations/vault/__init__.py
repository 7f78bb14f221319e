"""Migrations of the vault file."""

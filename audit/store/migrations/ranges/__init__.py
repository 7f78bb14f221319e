"""Migrations of the ranges files."""

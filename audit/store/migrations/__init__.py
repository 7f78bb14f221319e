"""Alembic migrations, one folder for each family of files."""

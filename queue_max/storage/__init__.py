"""Databases: engines, tables and migrations."""

"""Processes: each is a fold over its journal, and the table is the owner of their life."""

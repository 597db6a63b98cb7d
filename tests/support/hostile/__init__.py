"""Hostile input: how files are damaged, what reads them, and what must hold whatever is in them."""

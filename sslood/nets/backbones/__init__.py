"""Backbones, one per file: the file's name is the backbone's name, and adding a file re-runs no stage."""

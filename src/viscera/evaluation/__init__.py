"""Scoring label maps against references: metrics, tables, and pictures to look at."""

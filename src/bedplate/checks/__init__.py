"""Checks of a blueprint against the rules that are never broken, before it is committed. Pure; decides nothing else."""

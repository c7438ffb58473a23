"""Gives bare servers what they boot."""

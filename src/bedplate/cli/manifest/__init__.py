"""Manifests: files to objects, and each fault back to its file and line. Sends nothing."""

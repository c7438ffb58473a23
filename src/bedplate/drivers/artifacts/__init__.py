"""Builders of Kubernetes releases and bootable images, with their cache. Know no controller."""

"""A fleet's file out of what a user has: `kubectl get -o json`, lists in CSV, and Bedplate's own objects. Pure."""

"""Watches clusters' own APIs and acts on them: addons, drains, nodes, kubelets' certificates."""

"""The kinds that users declare or read, one file per family; `bedplate.model.registry` lists them all."""

"""Keeps everything that must survive: objects with their change log, blueprints, the journal, secrets, leadership.

Blocking throughout; callers use threads. Decides nothing: validation belongs to `model`, meaning to the API and the
engine. `bedplate.store.store.Store` is the way in.
"""

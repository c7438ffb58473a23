"""The API over HTTPS, by Kubernetes' conventions: `app.create_app` gives it, `server.Server` serves it.

Starlette and uvicorn stay inside this package. It writes to the store and tells who watches; it decides nothing about
machines: that is the engine's.
"""

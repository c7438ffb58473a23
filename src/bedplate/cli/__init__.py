"""The command line: a thin client of the API, and the only place where the parts are put together.

Start-up time is a promise (`bedplate get machines` takes at most twice a bare Python program's time for the same
request), so modules here import only what their own command needs, and heavy ones inside functions.
"""

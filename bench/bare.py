"""The peer of `bedplate get machines`: the least Python that makes the same request over TLS and writes a table.

A program by itself: its arguments say where to ask, whom to trust and what for; the token is in its environment.
"""

import http.client
import json
import os
import ssl
import sys

host, port, authority, path, accept = sys.argv[1:]
token = os.environ["TOKEN"]
connection = http.client.HTTPSConnection(host, int(port), context=ssl.create_default_context(cafile=authority))
connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": accept})
table = json.loads(connection.getresponse().read())
for row in table["rows"]:
    print(*row["cells"][:5])

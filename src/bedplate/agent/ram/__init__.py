"""The agent in its RAM role: looks at a bare server, tests it, writes a machine's image to its disk, erases its disks.

May write nothing but what a step names, and no disk that can't be told from every other.
"""

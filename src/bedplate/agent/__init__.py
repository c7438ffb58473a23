"""The program on a server: alone calls its libvirt, writes its disks and reaches its guests, for one controller.

It decides nothing by itself: it carries out commands that are not out of date, tells what it sees, and leaves guests
running whatever becomes of it or of its connection.
"""

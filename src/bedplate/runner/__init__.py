"""Drives the engine against the real world: carries events in and commands out, with asyncio. Decides nothing."""

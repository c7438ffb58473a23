"""Deciding with numbers: a fleet's twin, simulated years, cost, energy, substrates compared, and claims judged.

`fleet` reads what a user has; `packing` lays it out on VMs, metal or a mix; `years` has the production controllers run
years of it; `cost` prices it; `comparing` puts it side by side; `claims` judges what is said in the debate.
"""

"""Hostile input, by the thousand: what is changed, and the law that every trial must obey (docs/reliability.md).

A family is a class with `name`, made once in a folder of its own, and `trial(rng)`: it changes something with the
random numbers of `rng`, tries it, and says "refused" or "accepted", or raises BrokenLawError. bench/reliability.py
runs them.
"""

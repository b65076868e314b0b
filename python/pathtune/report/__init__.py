"""The report of a run: one page that says what was changed, what it gained and what it forgot.

run.py reads a finished run; training.py and weights.py make the panels as plain values, contents.py and compare.py put
them together into what report.json holds; figures.py draws a panel from these values alone, svg.py lets a drawing into
the page, page.py writes all files.
"""

"""Notebooks: their sources as text, the notebooks made of them beside, and what makes them (`make`).

The sources are scripts of cells, not modules: only `make` and `cells` are to be imported.
"""

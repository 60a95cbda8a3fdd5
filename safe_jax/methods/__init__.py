"""The methods that are compared, one module each: what a method declares, and its pure functions.
`contract.py` says what a method gives, `catalogue.py` lists all of them. Neither loads JAX, so a
report or a help text can read the declarations.
"""

"""What this system has of what frcnn can use.

In: installed packages, drivers and devices.
Out: one ``Check`` for each, with how to mend what is missing.
"""

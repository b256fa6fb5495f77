"""Where a result comes from: code, packages, machine, data; told in files beside the result.

Nothing here meets a tracker: what is captured on the machine that trains stands in the run's
folder, and is sent from there, by that machine or by another one later.
"""

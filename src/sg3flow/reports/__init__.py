"""Pages and charts for people: what validation, evaluation and comparison found, drawn.

Nothing below imports this package: what decides the numbers does not depend on how they are shown.
"""

"""HTML pages and charts of validation, evaluation and comparison.

Only the command line imports this package, so results cannot depend on how they are displayed.
"""

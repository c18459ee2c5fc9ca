"""Do the tests of the measuring code notice when it measures something else?

``python -m tests.mutation`` makes one small change after another in a copy of the checkout, each a
mistake that would still print plausible figures, and runs the tests that must fail then. To add
some, write ``what, text, replacement`` into an ``in_file(...)`` of this folder's lists, or write a
list of your own and name it in ``tests/mutation/mutants.py``.
"""

"""Results as a table, JSON, Markdown and a page.

In: one or two results documents.
Out: files, and the regressions between two documents.
"""

"""Results as a table, JSON, Markdown and a page.

In: one or two results documents.
Out: files, and the regressions between two documents.
"""

__all__ = [
    "axes",
    "charts",
    "content",
    "details",
    "document",
    "drawn",
    "formatting",
    "html_page",
    "markdown_page",
    "markup",
    "plane_figures",
    "ranking",
    "regression",
    "results",
    "roofline_figure",
    "row_figures",
    "table",
    "write",
]

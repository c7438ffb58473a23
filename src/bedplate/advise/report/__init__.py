"""A comparison as one HTML page that opens without a network. Pure, but for the library that draws the charts.

That library is loaded with the first page only, so that whoever wants no page needs none.
"""

from bedplate.advise.report.page import ReportError, render

__all__ = ["ReportError", "render"]

"""Reports and plots of results: self-contained HTML pages, SVG and PNG plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["ReportContent", "draw_certificates", "draw_curve", "report_content", "write_report"]

if TYPE_CHECKING:
    from advrad.report.certificate_plots import draw_certificates
    from advrad.report.content import report_content
    from advrad.report.evaluation_report import ReportContent, write_report
    from advrad.report.plots import draw_curve
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "ReportContent": "advrad.report.evaluation_report",
            "draw_certificates": "advrad.report.certificate_plots",
            "draw_curve": "advrad.report.plots",
            "report_content": "advrad.report.content",
            "write_report": "advrad.report.evaluation_report",
        },
    )

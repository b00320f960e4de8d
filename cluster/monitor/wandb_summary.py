"""The end of an audit as W&B shows it: verdicts, tables, plots, and what the knobs did.

The drawings come ready made (cli/watch.py): they need nothing from the server. On a sweep's page W&B adds its own parallel
coordinates and importance (cluster/monitor/upload.py).
"""

from __future__ import annotations

from typing import Any


def log_summary(wandb: Any, run: Any, summary: dict[str, Any]) -> None:
    """Log what cli/watch.py made of a result.

    Args:
        summary: `config` (the threat model and how it was searched), `verdicts` (numbers and words by name), `tables` (columns
            and rows by name), `plots` (HTML by name) and `importance` (rows of label and strength).
    """
    for name, table in summary["tables"].items():
        log_table(wandb, run, name, table["columns"], table["rows"])
    for name, page in summary["plots"].items():
        run.log({f"plots/{name}": wandb.Html(page, inject=False)})
    if summary["importance"]:
        bars = wandb.Table(columns=["knob", "strength"], data=summary["importance"])
        run.log({"importance": wandb.plot.bar(bars, "knob", "strength", title="What harm depends on (rank correlation)")})
    run.summary.update(summary["verdicts"])


def log_table(wandb: Any, run: Any, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(rows))  # more than 10,000 are cut off with a warning that nobody sees
    run.log({f"tables/{name}": wandb.Table(columns=columns, data=rows)})

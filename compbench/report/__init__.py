"""From a results folder to rows, verdicts, tables and the folder's own README."""

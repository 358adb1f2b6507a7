"""Figures, the report and the study card; the only package that uses Matplotlib, and independent of train."""
